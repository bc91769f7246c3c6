package dm

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// The test binary plays three parts: the tests of a host; the same tests in a
// guest, as its first process; and a process in either that has a disk open.
func TestMain(m *testing.M) {
	switch {
	case os.Args[0] == holderName:
		hold()
	case os.Getpid() == 1:
		guest(m)
	}
	os.Exit(m.Run())
}

// guestDir is where the guest's tests keep what outlives a boot.
const guestDir = "/mnt"

// guest runs the tests that the kernel's command line has named, and crashes.
func guest(m *testing.M) {
	prepare := func() error {
		for _, mount := range []struct{ source, target, kind string }{
			{"proc", "/proc", "proc"}, {"sys", "/sys", "sysfs"}, {"dev", "/dev", "devtmpfs"}, {"tmp", "/tmp", "tmpfs"},
		} {
			if err := os.MkdirAll(mount.target, 0o755); err != nil {
				return err
			}
			if err := unix.Mount(mount.source, mount.target, mount.kind, 0, ""); err != nil {
				return fmt.Errorf("mount %s: %w", mount.target, err)
			}
		}
		list, err := os.ReadFile("/etc/banger/modules")
		if err != nil {
			return err
		}
		for _, name := range strings.Fields(string(list)) {
			f, err := os.Open(name)
			if err != nil {
				return err
			}
			if err := unix.FinitModule(int(f.Fd()), "", 0); err != nil {
				return fmt.Errorf("load %s: %w", name, err)
			}
			f.Close()
		}
		if err := os.MkdirAll(guestDir, 0o755); err != nil {
			return err
		}
		return unix.Mount("/dev/vda", guestDir, "ext4", 0, "")
	}
	if err := prepare(); err != nil {
		fmt.Println("GUEST cannot:", err)
	} else {
		fmt.Println("GUEST result", m.Run())
	}
	// Neither synced nor unmounted: as when the host crashes.
	unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
}
