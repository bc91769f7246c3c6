package disk_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"
)

// mounted returns a directory that is a fresh file system of a kind (btrfs, xfs, ext4)
// on a loop device.
func mounted(t testing.TB, kind string, sizeMiB int) string {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("not root: cannot mount")
	}
	if _, err := exec.LookPath("mkfs." + kind); err != nil {
		t.Skip("no mkfs." + kind)
	}
	image := filepath.Join(t.TempDir(), "fs.img")
	if err := os.WriteFile(image, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(image, int64(sizeMiB)<<20); err != nil {
		t.Fatal(err)
	}
	if msg, err := exec.Command("mkfs."+kind, "-q", image).CombinedOutput(); err != nil {
		t.Fatalf("mkfs.%s of %s MiB: %v\n%s", kind, strconv.Itoa(sizeMiB), err, msg)
	}
	dir := t.TempDir()
	if msg, err := exec.Command("mount", "-o", "loop", image, dir).CombinedOutput(); err != nil {
		t.Skipf("cannot mount %s: %v\n%s", kind, err, msg)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Errorf("unmount %s: %v", kind, err)
		}
	})
	return dir
}
