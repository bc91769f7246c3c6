package doctor

import (
	"bytes"
	"compress/gzip"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// plant writes files below a new root; a name that ends in a slash is a directory.
func plant(t *testing.T, files map[string]string) string {
	t.Helper()
	root := t.TempDir()
	for name, content := range files {
		p := filepath.Join(root, name)
		must(t, os.MkdirAll(filepath.Dir(p), 0o755))
		if strings.HasSuffix(name, "/") {
			must(t, os.MkdirAll(p, 0o755))
		} else {
			must(t, os.WriteFile(p, []byte(content), 0o644))
		}
	}
	return root
}

// program writes a script that answers as a VMM would.
func program(t *testing.T, script string) string {
	t.Helper()
	p := filepath.Join(t.TempDir(), "program")
	must(t, os.WriteFile(p, []byte("#!/bin/sh\n"+script+"\n"), 0o755))
	return p
}

// expect compares a result's status, and looks for words in what it says.
func expect(t *testing.T, got Result, status Status, words string) {
	t.Helper()
	if got.Status != status || !strings.Contains(got.Detail+" -> "+got.Hint, words) {
		t.Errorf("got %s: %s -> %s; want %s with %q", got.Status, got.Detail, got.Hint, status, words)
	}
	if (got.Status == Fail || got.Status == Warn) && got.Hint == "" {
		t.Errorf("%s without saying what to do: %s", got.Status, got.Detail)
	}
}

func TestRunAndExitCode(t *testing.T) {
	give := func(s Status) func(context.Context) Result {
		return func(context.Context) Result { return Result{s, "d", "h"} }
	}
	lines := Run(t.Context(), []Check{{"a", give(OK)}, {"b", give(Warn)}, {"c", give(Info)}})
	want := []Line{{"a", Result{OK, "d", "h"}}, {"b", Result{Warn, "d", "h"}}, {"c", Result{Info, "d", "h"}}}
	if diff := cmp.Diff(want, lines); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if code := ExitCode(lines); code != 0 {
		t.Errorf("exit code %d, want 0", code)
	}
	if code := ExitCode(append(lines, Line{"d", Result{Status: Fail}})); code != 1 {
		t.Errorf("exit code with a failure %d, want 1", code)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for _, l := range Run(ctx, []Check{{"a", give(OK)}}) {
		if l.Status != Fail {
			t.Errorf("what was not looked at is %s", l.Status)
		}
	}
}

func TestFirecrackerVersions(t *testing.T) {
	tests := []struct {
		says   string
		status Status
		words  string
	}{
		{"Firecracker v1.14.3\n", Warn, "1.14.3, which has known holes"},
		{"Firecracker v1.14.4\n", OK, "1.14.4"},
		{"Firecracker v1.14.10\n\nSupported snapshot", OK, "1.14.10"},
		{"Firecracker v1.15.0\n", Warn, "1.15.0"},
		{"Firecracker v1.15.1\n", OK, "1.15.1"},
		{"Firecracker v1.16.0-dev\n", OK, "1.16.0"},
		{"Firecracker v2.0\n", OK, "2.0.0"},
		{"Firecracker v0.25.2\n", Warn, "0.25.2"},
		{"Firecracker v99999999999999999999.1\n", Warn, "no version"},
		{"hello", Warn, "no version in \"hello\""},
	}
	for _, tt := range tests {
		fc := program(t, "printf '%s' '"+tt.says+"'")
		expect(t, Host{Firecracker: fc}.firecracker(t.Context()), tt.status, tt.words)
	}
	expect(t, Host{Firecracker: program(t, "exit 3")}.firecracker(t.Context()), Warn, "exit status 3")
	expect(t, Host{Firecracker: program(t, "head -c 1000000 /dev/zero; echo 1.14.4")}.firecracker(t.Context()), Warn, "no version")
	expect(t, Host{Firecracker: "/nowhere/firecracker"}.firecracker(t.Context()), Info, "not found")
	t.Setenv("PATH", t.TempDir())
	expect(t, Host{}.firecracker(t.Context()), Info, "not found")
}

// Root runs nothing that others may have made, and gets to what nobody may not.
func TestVersionIsAskedAsNobody(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root to be somebody else")
	}
	fc := program(t, "echo Firecracker v1.$(id -u).$(id -g)")
	must(t, os.Chmod(filepath.Dir(fc), 0o700))
	expect(t, Host{Firecracker: fc}.firecracker(t.Context()), OK, "version 1.65534.65534")
	must(t, os.Chmod(fc, 0o700))
	expect(t, Host{Firecracker: fc}.firecracker(t.Context()), Warn, fc+" --version: permission denied")
}

// What a program leaves running is not waited for, though it has the pipe.
func TestVersionOfAProgramThatForks(t *testing.T) {
	begun := time.Now()
	_, err := AskVersion(t.Context(), program(t, "sleep 20 & echo 1.2.3"))
	if took := time.Since(begun); took > 15*time.Second {
		t.Errorf("%v after %v", err, took)
	}
}

func TestVMM(t *testing.T) {
	t.Setenv("PATH", "/bin:/usr/bin")
	fc := program(t, "echo Firecracker v1.14.4")
	qemu := program(t, "echo 'QEMU emulator version 10.0.7 (Debian)'")
	expect(t, Host{QEMU: qemu}.qemu(t.Context()), OK, "10.0.7")
	expect(t, Host{QEMU: program(t, "echo QEMU emulator version 5.2.0")}.qemu(t.Context()), Warn, "5.2.0")
	tests := []struct {
		fc, qemu string
		kvm      Status
		status   Status
		words    string
	}{
		{fc, qemu, OK, OK, "in Firecracker"},
		{"/none", qemu, OK, OK, "in QEMU, with KVM"},
		{fc, qemu, Warn, Warn, "emulated"},
		{"/none", qemu, Warn, Warn, "emulated"},
		{fc, "/none", Warn, Fail, "QEMU is missing"},
		{"/none", "/none", OK, Fail, "neither"},
		// Who may not look at KVM is told of no fault that there may not be.
		{fc, qemu, Info, Info, "if they can use KVM"},
		{fc, "/none", Info, Info, "if they can use KVM"},
		{"/none", qemu, Info, Info, "not known"},
		{"/none", "/none", Info, Fail, "neither"},
	}
	for _, tt := range tests {
		expect(t, Host{Firecracker: tt.fc, QEMU: tt.qemu}.vmm(t.Context(), tt.kvm), tt.status, tt.words)
	}
}

func TestSpaceLooksAboveWhatIsNotMadeYet(t *testing.T) {
	dir := t.TempDir()
	got := Host{StateDir: dir + "/not/yet/made"}.space(t.Context())
	if !strings.HasSuffix(got.Detail, "free in "+dir) {
		t.Errorf("got %s, want it to look at %s", got.Detail, dir)
	}
	if _, err := os.Stat(dir + "/not"); err == nil {
		t.Error("the directory was made")
	}
}

func TestKernel(t *testing.T) {
	all := "CONFIG_NET_NS=y\nCONFIG_TUN=m\nCONFIG_BRIDGE=m\nCONFIG_VETH=y\nCONFIG_NF_TABLES=y\nCONFIG_NFT_CT=y\nCONFIG_NFT_MASQ=y\n" +
		"CONFIG_NFT_CONNLIMIT=y\nCONFIG_NF_CONNTRACK=y\nCONFIG_NF_TABLES_INET=y\nCONFIG_NF_TABLES_NETDEV=y\nCONFIG_NETFILTER_INGRESS=y\n"
	dep := "kernel/drivers/net/tun.ko.xz:\nkernel/net/bridge/bridge.ko.xz: kernel/net/802/stp.ko.xz\nkernel/drivers/net/veth.ko:\n" +
		"kernel/net/netfilter/nf_tables.ko:\nkernel/net/netfilter/nft_ct.ko:\nkernel/net/netfilter/nft_masq.ko:\n" +
		"kernel/net/netfilter/nft-connlimit.ko:\n"
	release := map[string]string{"proc/sys/kernel/osrelease": "6.1\n"}
	with := func(more map[string]string) Host {
		files := map[string]string{}
		for _, m := range []map[string]string{release, more} {
			for k, v := range m {
				files[k] = v
			}
		}
		return Host{Root: plant(t, files)}
	}
	expect(t, with(map[string]string{"boot/config-6.1": all}).kernel(t.Context()), OK, "6.1")
	expect(t, with(map[string]string{"boot/config-6.1": strings.Replace(all, "CONFIG_BRIDGE=m", "# CONFIG_BRIDGE is not set", 1)}).kernel(t.Context()), Fail, "lacks bridge")
	expect(t, with(map[string]string{"boot/config-6.1": strings.Replace(all, "CONFIG_NET_NS=y", "", 1)}).kernel(t.Context()), Fail, "CONFIG_NET_NS")
	expect(t, with(map[string]string{"proc/config.gz": zipped(t, all)}).kernel(t.Context()), OK, "6.1")
	expect(t, with(map[string]string{"lib/modules/6.1/modules.dep": dep, "lib/modules/6.1/modules.builtin": "kernel/net/netfilter/nf_conntrack.ko\n"}).kernel(t.Context()), OK, "6.1")
	expect(t, with(map[string]string{"lib/modules/6.1/modules.dep": dep}).kernel(t.Context()), Fail, "lacks nf_conntrack")
	expect(t, with(map[string]string{"lib/modules/6.1/modules.dep": dep, "sys/module/nf_conntrack/": ""}).kernel(t.Context()), OK, "6.1")
	expect(t, with(nil).kernel(t.Context()), Info, "does not tell")
	old := map[string]string{"proc/sys/kernel/osrelease": "5.10.0-28-amd64\n", "boot/config-5.10.0-28-amd64": all}
	expect(t, with(old).kernel(t.Context()), Fail, "5.12 or later")
	expect(t, Host{Root: t.TempDir()}.kernel(t.Context()), Info, "cannot be read")
}

func zipped(t *testing.T, text string) string {
	t.Helper()
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	_, err := z.Write([]byte(text))
	must(t, err)
	must(t, z.Close())
	return b.String()
}

func TestFilesOfTheHost(t *testing.T) {
	routes := "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n"
	tests := []struct {
		name   string
		files  map[string]string
		check  func(Host) Result
		status Status
		words  string
	}{
		{"no tun", nil, func(h Host) Result { return h.tun(t.Context()) }, Fail, "modprobe tun"},
		{"tun is a file", map[string]string{"dev/net/tun": ""}, func(h Host) Result { return h.tun(t.Context()) }, Fail, "not a device"},
		{"no cgroup v2", nil, func(h Host) Result { return h.cgroups(t.Context()) }, Info, "no cgroup v2"},
		{"cgroup v2", map[string]string{"sys/fs/cgroup/cgroup.controllers": "cpuset cpu io memory\n"}, func(h Host) Result { return h.cgroups(t.Context()) }, OK, "memory"},
		{"cgroup v2 without memory", map[string]string{"sys/fs/cgroup/cgroup.controllers": "cpu\n"}, func(h Host) Result { return h.cgroups(t.Context()) }, Info, "without"},
		{"network up", map[string]string{"run/netns/banger": ""}, func(h Host) Result { return h.namespace(t.Context()) }, OK, "is up"},
		{"default route", map[string]string{"proc/net/route": routes + "eth9\t00000000\t010200C0\t0003\t0\t0\t0\t00000000\t0\t0\t0\n", "sys/class/net/eth9/mtu": "1400\n"},
			func(h Host) Result { return h.uplink(t.Context()) }, OK, "eth9, packets of up to 1400"},
		{"no default route", map[string]string{"proc/net/route": routes + "eth9\t000200C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n"},
			func(h Host) Result { return h.uplink(t.Context()) }, Warn, "no default route"},
		{"routes unreadable", nil, func(h Host) Result { return h.uplink(t.Context()) }, Info, "cannot be read"},
		{"forwarding", map[string]string{"proc/sys/net/ipv4/ip_forward": "1\n"}, func(h Host) Result { return h.forwarding(t.Context()) }, OK, "is 1"},
		{"no forwarding", map[string]string{"proc/sys/net/ipv4/ip_forward": "0\n"}, func(h Host) Result { return h.forwarding(t.Context()) }, OK, "puts it back"},
		{"forwarding lost", map[string]string{"proc/sys/net/ipv4/ip_forward": "0\n", "run/netns/banger": ""}, func(h Host) Result { return h.forwarding(t.Context()) }, Fail, "system restart"},
		{"forwarding unreadable", nil, func(h Host) Result { return h.forwarding(t.Context()) }, Info, "cannot be read"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			expect(t, tt.check(Host{Root: plant(t, tt.files)}), tt.status, tt.words)
		})
	}
}

// TestRealMachine runs every check here. What it finds is the machine's; that
// each says something, and what to do, is the doctor's.
func TestRealMachine(t *testing.T) {
	var kvmAsked int
	h := Host{
		StateDir: t.TempDir(),
		KVM: func(context.Context) Result {
			kvmAsked++
			return Result{OK, "usable, as the test says", ""}
		},
		Disks: func(_ context.Context, dir string) Result { return Result{OK, dir, ""} },
	}
	lines := Run(t.Context(), Checks(h))
	if kvmAsked != 1 {
		t.Errorf("KVM was probed %d times, want 1", kvmAsked)
	}
	seen := make(map[string]bool)
	for _, l := range lines {
		t.Logf("%-4s %-11s %s -> %s", l.Status, l.Name, l.Detail, l.Hint)
		if l.Detail == "" || seen[l.Name] {
			t.Errorf("%s: says nothing, or comes twice", l.Name)
		}
		if (l.Status == Fail || l.Status == Warn) && l.Hint == "" {
			t.Errorf("%s: %s without a hint", l.Name, l.Status)
		}
		seen[l.Name] = true
	}
	if len(lines) != 14 {
		t.Errorf("%d lines, want 14", len(lines))
	}
}

func FuzzParseVersion(f *testing.F) {
	for _, s := range []string{"Firecracker v1.14.4", "QEMU emulator version 10.0.7", "", "1.", "00000000000000000000.1"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if v, ok := parseVersion(s); !ok && v != (version{}) {
			t.Errorf("%q: no version, but %v", s, v)
		}
	})
}
