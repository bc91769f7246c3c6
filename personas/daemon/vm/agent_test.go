package vm

import (
	"net"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// A VMM that was taken over may plant a link in its folder, to have the daemon
// talk to a socket of the owner's.
func TestPlantedLinksAreNotFollowed(t *testing.T) {
	dir := t.TempDir()
	l, err := net.Listen("unix", filepath.Join(dir, "real"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if err := os.Symlink("real", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "file"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	folder := os.NewFile(uintptr(fd), dir)
	defer folder.Close()
	for name, want := range map[string]bool{"real": true, "link": false, "file": false, "none": false} {
		f, err := openSocket(folder, name)
		if (err == nil) != want {
			t.Errorf("%s: opened: %t, %v", name, err == nil, err)
		}
		if err == nil {
			f.Close()
		}
	}
}
