package ext4test

import (
	"os"
	"os/exec"
	"testing"

	"golang.org/x/sys/unix"
)

// Mount mounts the image at path through a loop device and returns where. It is unmounted
// by the function that it returns, or with the test. Options are those of mount(8) beside
// "loop". The test is skipped where nothing can be mounted.
func Mount(t testing.TB, path, options string) (dir string, unmount func()) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("mounting needs root")
	}
	if _, err := os.Stat("/dev/loop-control"); err != nil {
		t.Skip("mounting needs loop devices: ", err)
	}
	dir = t.TempDir()
	if options != "" {
		options = "," + options
	}
	out, err := exec.Command("mount", "-t", "ext4", "-o", "loop"+options, path, dir).CombinedOutput()
	if err != nil {
		t.Fatalf("mount: %v\n%s", err, out)
	}
	mounted := true
	unmount = func() {
		if !mounted {
			return
		}
		mounted = false
		if out, err := exec.Command("umount", dir).CombinedOutput(); err != nil {
			unix.Unmount(dir, unix.MNT_DETACH)
			t.Errorf("umount: %v\n%s", err, out)
		}
	}
	t.Cleanup(unmount)
	return dir, unmount
}
