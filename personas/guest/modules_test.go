package guest_test

import (
	"os/exec"
	"testing"

	"banger/personas/guest/link"
)

// What programs in a guest need of the kernel is there when they use it, in an
// image without a modprobe.
func TestBootModules(t *testing.T) {
	k := cloudKernel(t)
	disk := diskOf(t, "debian-systemd.tar") // which has the tools
	c := config()
	c.Init, c.Modules = link.InitBanger, "vdb"
	m := start(t, disk, k.modules())
	m.mustBoot(t, c)
	for _, use := range []struct{ module, script string }{
		{"overlay", "mkdir -p /o/l /o/u /o/w /o/m && mount -t overlay overlay -o lowerdir=/o/l,upperdir=/o/u,workdir=/o/w /o/m"},
		{"bridge", "ip link add br0 type bridge"},
		{"veth", "ip link add v0 type veth peer name v1"},
		{"wireguard", "ip link add wg0 type wireguard"},
		{"fuse", ": <>/dev/fuse"},
		{"tun", ": <>/dev/net/tun"},
		// A message to nftables: which generation of rules is there?
		{"nf_tables", `perl -e 'socket(S, 16, 3, 12) or die $!; send(S, pack("LSSLLCCS", 20, 10 << 8 | 16, 1, 1, 0, 0, 0, 0), 0) or die $!'`},
	} {
		got := m.sh(t, "ls -d /sys/module/"+use.module+" 2>/dev/null; set -e; "+use.script+"; ls -d /sys/module/"+use.module)
		if want := "/sys/module/" + use.module + "\n"; got != want {
			t.Errorf("%s: got %q, want it to appear", use.module, got)
		}
	}
	for script, want := range map[string]string{
		"cat /proc/sys/kernel/modprobe":                         "/run/banger/banger-guest\n",
		"stat -c %a /dev/fuse /dev/net/tun":                     "666\n666\n",
		"cd /lib/modules/*/banger; touch x 2>&1 | grep -c Read": "1\n",
		"mount -o remount,rw /lib/modules/*/banger 2>/dev/null; touch /lib/modules/*/banger/x 2>/dev/null || echo no": "no\n",
		// Where headers and modules of others go.
		"cd /lib/modules/*/ && mkdir updates && ln -s /usr/src/x build && rm modules.alias && echo mine >modules.alias; echo $?": "0\n",
	} {
		if got := m.sh(t, script); got != want {
			t.Errorf("%s: got %q, want %q", script, got, want)
		}
	}
	hasKmod := copyKmod(t, m)
	m.shutdown(t, link.ShutdownRequest{})

	again := start(t, disk, k.modules())
	again.mustBoot(t, c)
	if got := again.sh(t, "cd /lib/modules/*/; cat modules.alias; readlink modules.dep build; ls banger/kernel | head -1"); got != "mine\nbanger/modules.dep\n/usr/src/x\narch\n" {
		t.Errorf("after a restart: %q", got)
	}
	if !hasKmod {
		return
	}
	// Now the image has a modprobe, which is the kernel's.
	for script, want := range map[string]string{
		"cat /proc/sys/kernel/modprobe": "/sbin/modprobe\n",
		"ip link add br0 type bridge; modprobe overlay && ls -d /sys/module/bridge /sys/module/overlay": "/sys/module/bridge\n/sys/module/overlay\n",
		"modprobe virtio_blk && modprobe ext4; echo $?":                                                 "0\n",
	} {
		if got := again.sh(t, script); got != want {
			t.Errorf("%s: got %q, want %q", script, got, want)
		}
	}
}

// copyKmod gives the guest the kmod of this machine, if it runs there.
func copyKmod(t *testing.T, m *vm) bool {
	t.Helper()
	kmod, err := exec.LookPath("kmod")
	if err != nil {
		return false
	}
	if err := link.CopyIn(t.Context(), m.dial(t), []string{kmod}, "/usr/bin/", link.CopyOptions{}); err != nil {
		t.Fatal(err)
	}
	has := m.sh(t, "kmod --version >/dev/null 2>&1 && ln -s ../bin/kmod /usr/sbin/modprobe && echo yes || echo no")
	t.Logf("kmod of this machine runs in the guest: %s", has)
	return has == "yes\n"
}
