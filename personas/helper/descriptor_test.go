package helper

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"banger/ops"
)

// A4, A5: what may not become a disk, whoever opened it.
func TestDescriptorsThatAreRefused(t *testing.T) {
	needRoot(t)
	dir := t.TempDir()
	disk := strings.Repeat("\x00", 4096)
	path := func() string { return ownFile(t, dir, disk, os.O_RDONLY).Name() }
	for name, c := range map[string]struct {
		open func(t *testing.T) *os.File
		want string
	}{
		"directory": {func(t *testing.T) *os.File {
			must(t, os.Chown(dir, testOwner.uid, -1))
			return open(t, dir, os.O_RDONLY)
		}, "not a regular file"},
		"fifo": {func(t *testing.T) *os.File {
			p := filepath.Join(dir, "fifo")
			must(t, unix.Mkfifo(p, 0o600))
			must(t, os.Chown(p, testOwner.uid, -1))
			return open(t, p, os.O_RDWR)
		}, "not a regular file"},
		"pipe": {func(t *testing.T) *os.File {
			r, w, err := os.Pipe()
			must(t, err)
			t.Cleanup(func() { r.Close(); w.Close() })
			return r
		}, "file system"},
		"socket": {func(t *testing.T) *os.File {
			fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
			must(t, err)
			f, g := os.NewFile(uintptr(fds[0]), "socket"), os.NewFile(uintptr(fds[1]), "socket")
			t.Cleanup(func() { f.Close(); g.Close() })
			return f
		}, "file system"},
		"character device": {func(t *testing.T) *os.File {
			return node(t, filepath.Join(dir, "null"), unix.S_IFCHR, unix.Mkdev(1, 3))
		}, "not a regular file"},
		"block device": {func(t *testing.T) *os.File {
			return node(t, filepath.Join(dir, "ram0"), unix.S_IFBLK, unix.Mkdev(7, 0))
		}, "not a regular file"},
		"memfd": {func(t *testing.T) *os.File {
			fd, err := unix.MemfdCreate("disk", unix.MFD_CLOEXEC)
			must(t, err)
			f := os.NewFile(uintptr(fd), "memfd")
			t.Cleanup(func() { f.Close() })
			must(t, f.Truncate(4096))
			must(t, f.Chown(testOwner.uid, -1))
			return f
		}, "0 names"},
		"O_TMPFILE": {func(t *testing.T) *os.File {
			f := open(t, dir, unix.O_TMPFILE|os.O_RDWR)
			must(t, f.Truncate(4096))
			must(t, f.Chown(testOwner.uid, -1))
			return f
		}, "0 names"},
		"deleted file": {func(t *testing.T) *os.File {
			f := open(t, path(), os.O_RDWR)
			must(t, os.Remove(f.Name()))
			return f
		}, "0 names"},
		"O_PATH":   {func(t *testing.T) *os.File { return open(t, path(), unix.O_PATH) }, "O_PATH"},
		"O_WRONLY": {func(t *testing.T) *os.File { return open(t, path(), os.O_WRONLY) }, "writing alone"},
		"O_APPEND": {func(t *testing.T) *os.File { return open(t, path(), os.O_RDWR|os.O_APPEND) }, "appending"},
		"hard link to a file of root's": {func(t *testing.T) *os.File {
			p := path()
			must(t, os.Chown(p, 0, 0))
			must(t, os.Link(p, p+".link"))
			return open(t, p+".link", os.O_RDWR)
		}, "belongs to uid 0"},
		"file with two names": {func(t *testing.T) *os.File {
			p := path()
			must(t, os.Link(p, p+".link"))
			return open(t, p, os.O_RDWR)
		}, "2 names"},
		"file of another": {func(t *testing.T) *os.File {
			p := path()
			must(t, os.Chown(p, testOwner.uid+1, testOwner.gid))
			return open(t, p, os.O_RDWR)
		}, "belongs to uid"},
		"overlay of somebody's": {func(t *testing.T) *os.File { return open(t, overlay(t, disk), os.O_RDONLY) }, "not this host's root"},
		"/proc":                 {func(t *testing.T) *os.File { return open(t, "/proc/self/maps", os.O_RDONLY) }, "file system"},
		"/sys": {func(t *testing.T) *os.File {
			return open(t, "/sys/kernel/mm/transparent_hugepage/enabled", os.O_RDONLY)
		}, "file system"},
		"empty": {func(t *testing.T) *os.File { return ownFile(t, dir, "", os.O_RDWR) }, "whole sectors"},
		"half a sector": {func(t *testing.T) *os.File {
			return ownFile(t, dir, disk[:700], os.O_RDWR)
		}, "whole sectors"},
		"shared, yet secret": {func(t *testing.T) *os.File { return open(t, path(), os.O_RDONLY) }, "let others read"},
	} {
		t.Run(name, func(t *testing.T) {
			f := c.open(t)
			before, _ := f.Stat()
			_, err := checkDisk(f, testOwner.uid)
			wantCode(t, err, ops.Invalid)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want a word of %q", err, c.want)
			}
			if after, _ := f.Stat(); before != nil && after.Mode() != before.Mode() {
				t.Errorf("mode is %v, was %v", after.Mode(), before.Mode())
			}
		})
	}
}

// overlay returns a file of the owner's on an overlay that anybody could mount.
func overlay(t *testing.T, content string) string {
	t.Helper()
	lower, empty, merged := t.TempDir(), t.TempDir(), t.TempDir()
	f := ownFile(t, lower, content, os.O_RDONLY)
	if err := unix.Mount("overlay", merged, "overlay", 0, "lowerdir="+lower+":"+empty); err != nil {
		t.Skipf("needs to mount an overlay: %v", err)
	}
	t.Cleanup(func() { unix.Unmount(merged, unix.MNT_DETACH) })
	return filepath.Join(merged, filepath.Base(f.Name()))
}

func node(t *testing.T, path string, kind uint32, dev uint64) *os.File {
	t.Helper()
	if err := unix.Mknod(path, kind|0o666, int(dev)); err != nil {
		t.Skipf("needs to make device nodes: %v", err)
	}
	must(t, os.Chown(path, testOwner.uid, -1))
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if errors.Is(err, unix.ENXIO) || errors.Is(err, unix.EPERM) || errors.Is(err, fs.ErrPermission) {
		t.Skipf("needs to open a device: %v", err)
	}
	must(t, err)
	t.Cleanup(func() { f.Close() })
	return f
}

// A14: what is done to the name of a checked file does not change what was
// checked, and a file that shrinks stays the same file.
func TestCheckedDescriptorStaysTheFile(t *testing.T) {
	needRoot(t)
	dir := t.TempDir()
	f := ownFile(t, dir, strings.Repeat("a", 4096), os.O_RDWR)
	d, err := checkDisk(f, testOwner.uid)
	must(t, err)
	must(t, os.Remove(f.Name()))
	secret := filepath.Join(dir, "secret")
	must(t, os.WriteFile(secret, []byte("secret"), 0o600))
	must(t, os.Symlink(secret, f.Name()))
	must(t, d.admit(testUIDs))
	info, err := os.Lstat(secret)
	must(t, err)
	if info.Mode().Perm() != 0o600 {
		t.Errorf("the link's target has mode %v", info.Mode())
	}
}

// The VM's group may write its disk, others may not, and an image stays as it is.
func TestAdmit(t *testing.T) {
	needRoot(t)
	dir := t.TempDir()
	for _, c := range []struct {
		flags int
		mode  fs.FileMode
		want  string
	}{
		{os.O_RDWR, 0o600, fmt.Sprintf("-rw-rw---- %d", testUIDs)},
		{os.O_RDONLY, 0o444, fmt.Sprintf("-r--r--r-- %d", testOwner.gid)},
		{os.O_RDWR, 0o6777 &^ 0, fmt.Sprintf("-rw-rw---- %d", testUIDs)}, // no setuid survives
	} {
		f := ownFile(t, dir, strings.Repeat("\x00", 512), os.O_RDONLY)
		must(t, os.Chmod(f.Name(), c.mode))
		d, err := checkDisk(open(t, f.Name(), c.flags), testOwner.uid)
		must(t, err)
		must(t, d.admit(testUIDs))
		var st unix.Stat_t
		must(t, unix.Stat(f.Name(), &st))
		info, err := os.Stat(f.Name())
		must(t, err)
		if got := fmt.Sprintf("%v %d", info.Mode(), st.Gid); got != c.want || int(st.Uid) != testOwner.uid {
			t.Errorf("mode and group are %s, owner %d; want %s, %d", got, st.Uid, c.want, testOwner.uid)
		}
	}
}
