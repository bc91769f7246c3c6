package guest_test

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"banger/personas/guest/link"
)

func config() link.BootConfig {
	return link.BootConfig{
		Hostname: "web", Disk: link.Disk{Device: "vda"}, TimeUnixNano: 4102444800e9, Entropy: make([]byte, 64),
		Network: &link.Network{
			MAC: "06:00:0a:53:00:03", Addresses: []netip.Prefix{netip.MustParsePrefix("10.83.0.3/16")},
			Gateway: netip.MustParseAddr("10.83.0.1"), DNS: []netip.Addr{netip.MustParseAddr("10.83.0.1")},
		},
		Files: []link.File{{Path: "/etc/app/secret", Mode: 0o600, UID: 1, GID: 2, Data: []byte("hidden")}},
	}
}

// A container image: banger is its init.
func TestBootOwnInit(t *testing.T) {
	disk := diskOf(t, "debian.tar")
	m := start(t, disk)
	ready := m.mustBoot(t, config())
	if ready.Init != "banger" {
		t.Errorf("init is %q", ready.Init)
	}
	for script, want := range map[string]string{
		"hostname; cat /etc/hostname":        "web\nweb\n",
		"date -u +%Y":                        "2100\n",
		"cat /etc/resolv.conf":               "nameserver 10.83.0.1\n",
		"getent hosts web":                   "127.0.1.1       web\n",
		"stat -c '%a %u %g' /etc/app/secret": "600 1 2\n",
		// The kernel tells of a carrier a second late, whoever needs it.
		"for i in $(seq 50); do read s </sys/class/net/eth0/operstate; [ $s = up ] && break; sleep 0.1; done; echo $s": "up\n",
		"cut -f 1-3 /proc/net/route | tail -n +2": "eth0\t00000000\t0100530A\neth0\t0000530A\t00000000\n",
		"cat /proc/self/cgroup":                   "0::/banger\n",
		"echo hello >/dev/stderr":                 "hello\n",
		"touch /dev/shm/x /tmp/x /run/x":          "",
		"ls -d /init /etc/banger 2>&1 | wc -l":    "2\n",
		"(sleep 0.01 &); sleep 0.5; cat /proc/[0-9]*/stat 2>/dev/null | grep -c ') Z' || true": "0\n",
	} {
		if got := m.sh(t, script); got != want {
			t.Errorf("%s: got %q, want %q", script, got, want)
		}
	}
	var tty bytes.Buffer
	code, err := link.Exec(t.Context(), m.dial(t), link.ExecRequest{Args: []string{"tty"}, TTY: true}, link.ExecIO{Stdout: &tty})
	if err != nil || code != 0 || tty.String() != "/dev/pts/0\r\n" {
		t.Errorf("terminal: %d, %q, %v", code, tty.String(), err)
	}
	copyThrough(t, m)
	m.sh(t, "dd if=/dev/zero of=/data bs=1M count=20 2>/dev/null; echo kept >>/data")
	m.shutdown(t, link.ShutdownRequest{})

	again := start(t, disk)
	again.mustBoot(t, config())
	if got := again.sh(t, "tail -c 5 /data; grep -c . /etc/hosts"); !strings.HasPrefix(got, "kept\n") {
		t.Errorf("after a restart: %q", got)
	}
	again.shutdown(t, link.ShutdownRequest{Force: true})
}

// copyThrough copies a file into the guest and out again.
func copyThrough(t *testing.T, m *vm) {
	t.Helper()
	dir := t.TempDir()
	content := bytes.Repeat([]byte("0123456789abcdef"), 1<<19)
	if err := os.WriteFile(filepath.Join(dir, "in"), content, 0o640); err != nil {
		t.Fatal(err)
	}
	if err := link.CopyIn(t.Context(), m.dial(t), []string{filepath.Join(dir, "in")}, "/opt/", link.CopyOptions{Owners: true}); err != nil {
		t.Fatal(err)
	}
	if err := link.CopyOut(t.Context(), m.dial(t), []string{"/opt/in"}, filepath.Join(dir, "out"), link.CopyOptions{}); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(filepath.Join(dir, "out")); err != nil || !bytes.Equal(got, content) {
		t.Errorf("%d of %d bytes came back, %v", len(got), len(content), err)
	}
}

// An image that stays as it is, and a disk of the VM's own on top.
func TestBootOverlay(t *testing.T) {
	image, own := diskOf(t, "debian.tar"), emptyDisk(t, 64)
	before := sum(t, image)
	// The disk grows while nobody looks, as when a VM is made larger.
	if err := os.Truncate(own, 256<<20); err != nil {
		t.Fatal(err)
	}
	c := config()
	c.Disk = link.Disk{Device: "vda", Upper: "vdb", Grow: true}
	m := start(t, image, own)
	m.mustBoot(t, c)
	for script, want := range map[string]string{
		"stat -f -c %T /":                                   "overlayfs\n",
		"stat -c '%a %u' /":                                 "755 0\n",
		"stat -f -c %T /var/lib/docker":                     "ext2/ext3\n",
		"rm /usr/bin/perl && ls /usr/bin/perl 2>&1 | wc -l": "1\n",
		"echo kept >/etc/kept; cat /etc/kept":               "kept\n",
	} {
		if got := m.sh(t, script); got != want {
			t.Errorf("%s: got %q, want %q", script, got, want)
		}
	}
	stats, err := link.Query(t.Context(), m.dial(t))
	if err != nil || stats.DiskTotalBytes < 200<<20 {
		t.Errorf("the disk did not grow: %+v, %v", stats, err)
	}
	m.shutdown(t, link.ShutdownRequest{})
	if sum(t, image) != before {
		t.Error("the image was written to")
	}
	command(t, program(t, "e2fsck"), "-f", "-n", own)

	again := start(t, image, own)
	again.mustBoot(t, c)
	if got := again.sh(t, "cat /etc/kept; ls /usr/bin/perl 2>/dev/null || echo gone"); got != "kept\ngone\n" {
		t.Errorf("after a restart: %q", got)
	}
}

// A distribution with its own init.
func TestBootSystemd(t *testing.T) {
	m := start(t, diskOf(t, "debian-systemd.tar"), cloudKernel(t).modules())
	c := config()
	c.Modules = "vdb"
	c.AuthorizedKeys = []string{"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGtleQ owner"}
	ready := m.mustBoot(t, c)
	if ready.Init != "/sbin/init" {
		t.Errorf("init is %q", ready.Init)
	}
	// The agent answers before systemd is done, and does not end with its changes.
	m.sh(t, "echo early")
	begin := time.Now()
	state := m.sh(t, "for i in $(seq 500); do s=$(systemctl is-system-running 2>/dev/null); case $s in running|degraded) break;; esac; sleep 0.2; done; echo $s")
	t.Logf("systemd is %s after %v", strings.TrimSpace(state), time.Since(begin).Round(time.Millisecond))
	if got := m.sh(t, "systemctl --failed --no-legend --plain"); got != "" {
		t.Errorf("failed units:\n%s", got)
	}
	if strings.Contains(m.console.String(), "Failed to find module") {
		t.Error("systemd misses a module")
	}
	t.Logf("%s", m.sh(t, "systemd-analyze; systemd-analyze blame | head -5; systemctl list-units --all --plain --no-legend --state=masked"))
	for script, want := range map[string]string{
		"cat /proc/1/comm":                           "systemd\n",
		"hostname; hostnamectl --static":             "web\nweb\n",
		"cat /proc/self/cgroup":                      "0::/banger\n",
		"cat /sys/class/net/eth0/operstate":          "up\n",
		"stat -c '%a %U' /root/.ssh/authorized_keys": "600 root\n",
		"systemctl daemon-reexec; echo alive":        "alive\n",
	} {
		if got := m.sh(t, script); got != want {
			t.Errorf("%s: got %q, want %q", script, got, want)
		}
	}
	m.shutdown(t, link.ShutdownRequest{})
	if !strings.Contains(m.console.String(), "reboot: Restarting system") {
		t.Error("systemd did not end the guest")
	}
}

// A guest that cannot boot says why, and ends.
func TestBootFails(t *testing.T) {
	for name, test := range map[string]struct {
		spoil func(*link.BootConfig)
		want  string
	}{
		"no init":    {func(c *link.BootConfig) { c.Init = link.InitImage }, "find the image's init"},
		"no disk":    {func(c *link.BootConfig) { c.Disk.Device = "vdz" }, `wait for disk "/dev/vdz"`},
		"not a disk": {func(c *link.BootConfig) { c.Disk.FSType = "vfat" }, "mount vfat"},
		"no upper":   {func(c *link.BootConfig) { c.Disk.Upper = "vdz" }, `wait for disk "/dev/vdz"`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel() // two of them wait for a disk
			m := start(t, emptyDisk(t, 16))
			c := config()
			test.spoil(&c)
			_, err := m.boot(t, c)
			var failure *link.Failure
			if !errors.As(err, &failure) || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v", err)
			}
			select {
			case <-m.ended:
			case <-time.After(30 * time.Second):
				t.Error("the guest does not end")
			}
			if !strings.Contains(m.console.String(), test.want) {
				t.Error("the console does not say why")
			}
		})
	}
}

// An end that is asked for before systemd can hear of it is not forgotten.
func TestShutdownRightAfterBoot(t *testing.T) {
	m := start(t, diskOf(t, "debian-systemd.tar"))
	m.mustBoot(t, config())
	begin := time.Now()
	m.shutdown(t, link.ShutdownRequest{GraceSeconds: 120})
	if took := time.Since(begin); took > 100*time.Second {
		t.Errorf("it took %v", took)
	}
}

func sum(t *testing.T, path string) string {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		t.Fatal(err)
	}
	return string(h.Sum(nil))
}
