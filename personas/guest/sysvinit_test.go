package guest_test

import (
	"strings"
	"testing"

	"banger/personas/guest/link"
)

// A distribution with the init that was there before systemd. The agent lives
// beside it, nothing waits for what a VM has not, and it ends the guest.
func TestBootSysvinit(t *testing.T) {
	k := cloudKernel(t)
	disk := diskOf(t, "debian-sysvinit.tar")
	c := config()
	c.Modules = "vdb"
	m := start(t, disk, k.modules())
	if ready := m.mustBoot(t, c); ready.Init != "/sbin/init" {
		t.Errorf("init is %q", ready.Init)
	}
	m.sh(t, "for i in $(seq 500); do runlevel | grep -q 2 && exit; sleep 0.2; done; runlevel; ps ax; exit 1")
	for script, want := range map[string]string{
		"cat /proc/1/comm":                          "init\n",
		"cat /proc/$PPID/comm":                      "banger-guest\n",
		"hostname":                                  "web\n",
		"cat /sys/class/net/eth0/operstate":         "up\n",
		"cat /etc/resolv.conf":                      "nameserver 10.83.0.1\n",
		"cat /proc/self/cgroup | grep -c banger":    "1\n",
		"stat -f -c %T /run /dev/shm /dev/pts":      "tmpfs\ntmpfs\ndevpts\n",
		": <>/dev/fuse && ls -d /sys/module/fuse":   "/sys/module/fuse\n",
		"echo kept >/kept; touch /run/x; echo $?":   "0\n",
		"mount | grep -c /lib/modules/.*/banger":    "1\n",
		"test -x /run/banger/banger-guest; echo $?": "0\n",
	} {
		if got := m.sh(t, script); got != want {
			t.Errorf("%s: got %q, want %q", script, got, want)
		}
	}
	m.shutdown(t, link.ShutdownRequest{})
	if !strings.Contains(m.console.String(), "reboot: Restarting system") {
		t.Error("the init did not end the guest")
	}
	command(t, program(t, "e2fsck"), "-f", "-n", disk)
}
