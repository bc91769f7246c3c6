package rig

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"banger/testdata/lab/talk"
	"banger/testdata/lab/tree"
)

func TestMain(m *testing.M) {
	Main()
	if len(os.Args) > 1 && os.Args[1] == victim {
		beVictim()
	}
	os.Exit(m.Run())
}

func start(t *testing.T, tier Tier) *Host {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	h, err := Start(t.Context(), Config{Tier: tier, Files: map[string]string{"hosts": "/etc/hosts"}})
	if errors.Is(err, fs.ErrNotExist) {
		t.Skipf("needs the lab's tree: %v", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := h.Close(); err != nil {
			t.Error(err)
		}
		if left := leftovers(t, h.dir); left != "" {
			t.Errorf("left on this machine: %s", left)
		}
	})
	return h
}

func sh(t *testing.T, h *Host, user, script string) string {
	t.Helper()
	r, err := h.Run(t.Context(), talk.Command{User: user, Args: []string{"sh", "-c", script}})
	if err != nil {
		t.Fatal(err)
	}
	if r.Code != 0 {
		t.Fatalf("%s: %v", script, r)
	}
	return strings.TrimSpace(r.Stdout)
}

// leftovers tells what of a host is still on this machine.
func leftovers(t *testing.T, dir string) string {
	var left []string
	if _, err := os.Stat(dir); err == nil {
		left = append(left, dir)
	}
	if cgroups, err := cgroupMount(); err == nil {
		if _, err := os.Stat(filepath.Join(cgroups, filepath.Base(dir))); err == nil {
			left = append(left, "cgroup")
		}
	}
	files, _ := filepath.Glob("/sys/block/loop*/loop/backing_file")
	for _, file := range files {
		if b, _ := os.ReadFile(file); strings.Contains(string(b), backing) {
			left = append(left, file)
		}
	}
	for _, file := range []string{"cmdline", "mountinfo"} {
		found, _ := filepath.Glob("/proc/[0-9]*/" + file)
		for _, name := range found {
			if strings.HasPrefix(name, "/proc/"+filepath.Base(mustReadlink("/proc/self"))+"/") {
				continue
			}
			if b, _ := os.ReadFile(name); strings.Contains(string(b), dir) {
				left = append(left, name)
			}
		}
	}
	return strings.Join(left, " ")
}

func mustReadlink(name string) string {
	target, _ := os.Readlink(name)
	return target
}

// backing is the name of a file that a loop device of a host is over.
const backing = "banger-lab-test.img"

const fill = "truncate -s 8M /var/" + backing + " && losetup --find /var/" + backing + "; setsid sleep 1000 >/dev/null 2>&1 & ip link add left0 type bridge"

func TestHostIsASystemdHost(t *testing.T) {
	h := start(t, Namespaces)
	for script, want := range map[string]string{
		"cat /proc/1/comm":                     "systemd",
		"hostname":                             "lab",
		"cat " + Shared + "/hosts | head -c 9": "127.0.0.1",
		"stat -fc %T /sys/fs/cgroup":           "cgroup2fs",
		"udevadm settle && udevadm control --ping && echo ok":                                                                        "ok",
		"busctl --system status org.freedesktop.resolve1 >/dev/null && resolvectl status uplink | grep -c '^Link'":                   "1",
		"systemd-run --quiet --pipe --wait -p DynamicUser=yes -p PrivateNetwork=yes -p ProtectSystem=strict grep -c : /proc/net/dev": "1",
	} {
		if got := sh(t, h, "root", script); got != want {
			t.Errorf("%s: got %q, want %q", script, got, want)
		}
	}
	for user, want := range map[string]string{"alice": "uid=1000(alice) gid=1000(alice) groups=1000(alice)", "mallory": "uid=1001(mallory) gid=1001(mallory) groups=1001(mallory)"} {
		if got := sh(t, h, user, "id"); got != want {
			t.Errorf("%s is %q", user, got)
		}
	}
	if r, err := h.Run(t.Context(), talk.Command{User: "mallory", Args: []string{"ls", "/run/lab"}}); err != nil || r.Code == 0 {
		t.Errorf("mallory sees the lab's own directory: %v %v", r, err)
	}
	sh(t, h, "root", fill)
}

// TestMachineHasWhatNamespacesLack: what makes it worth its slowness.
func TestMachineHasWhatNamespacesLack(t *testing.T) {
	if testing.Short() {
		t.Skip("boots an emulated machine")
	}
	h := start(t, Machine)
	if p := h.Processors(); strings.Count(p, "RIP=") != machineCPUs || !strings.Contains(p, "IRR") {
		t.Errorf("its processors are at %q", p)
	}
	for script, want := range map[string]string{
		"cat /proc/1/comm":                    "systemd",
		"stat -c %t:%T /dev/kvm":              "a:e8",
		"head -c 9 " + Shared + "/hosts":      "127.0.0.1",
		"dmsetup targets | grep -c ^snapshot": "3",
		"systemd-run --quiet --pipe --wait -p MemoryMax=32M sh -c 'cat /sys/fs/cgroup$(cut -d: -f3 /proc/self/cgroup)/memory.max'": "33554432",
	} {
		if got := sh(t, h, "root", script); got != want {
			t.Errorf("%s: got %q, want %q", script, got, want)
		}
	}
	var clock int64
	if _, err := fmt.Sscan(sh(t, h, "root", "date +%s"), &clock); err != nil {
		t.Fatal(err)
	}
	if off := time.Since(time.Unix(clock, 0)); off < -5*time.Second || off > 5*time.Second {
		t.Errorf("the clock is off by %v", off)
	}
	reboots(t, h)
}

func TestRebootKeepsTheDiskAndNothingElse(t *testing.T) {
	reboots(t, start(t, Namespaces))
}

// reboots boots a host again in both ways.
func reboots(t *testing.T, h *Host) {
	t.Helper()
	for name, again := range map[string]func() error{
		"reboot": func() error { return h.Reboot(t.Context()) },
		"crash":  func() error { return h.Crash(t.Context()) },
	} {
		before := sh(t, h, "root", fill+"; echo kept >/var/"+name+"; sync; touch /run/volatile; cat /proc/sys/kernel/random/boot_id")
		if err := again(); err != nil {
			t.Fatal(err)
		}
		if got := sh(t, h, "root", "cat /var/"+name+"; ls /run/volatile 2>/dev/null; losetup --list --noheadings --output BACK-FILE | grep "+backing+"; ip -o link show left0 2>/dev/null; true"); got != "kept" {
			t.Errorf("after a %s there is %q", name, got)
		}
		if after := sh(t, h, "root", "cat /proc/sys/kernel/random/boot_id"); after == before || after != h.client.BootID {
			t.Errorf("after a %s the boot id is %s, was %s", name, after, before)
		}
	}
}

// victim is the first argument of this program where it starts a host only to
// be killed.
const victim = "banger-lab-victim"

func beVictim() {
	h, err := Start(context.Background(), Config{Tier: Tier(os.Args[2])})
	if err == nil {
		_, err = h.Run(context.Background(), talk.Command{User: "root", Args: []string{"sh", "-c", fill}})
	}
	if err != nil {
		io.WriteString(os.Stdout, err.Error())
		os.Exit(1)
	}
	io.WriteString(os.Stdout, h.dir+"\n")
	select {}
}

// TestKilledProgramLeavesNothing: nobody tells the host when its program dies.
func TestKilledProgramLeavesNothing(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	if _, err := tree.Open(t.Context(), func(string) {}); errors.Is(err, fs.ErrNotExist) {
		t.Skipf("needs the lab's tree: %v", err)
	}
	cmd := exec.Command(os.Args[0], victim, string(Namespaces))
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 4096)
	n, _ := out.Read(buf)
	dir := strings.TrimSpace(string(buf[:n]))
	if !strings.HasPrefix(dir, "/") {
		t.Fatalf("the program says %q", dir)
	}
	if leftovers(t, dir) == "" {
		t.Error("a host that runs is not seen")
	}
	cmd.Process.Kill()
	cmd.Wait()
	for deadline := time.Now().Add(20 * time.Second); leftovers(t, dir) != ""; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("left on this machine: %s", leftovers(t, dir))
		}
	}
}
