package ext4test

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// Entry is all that a file system tells of one name.
type Entry struct {
	// Mode has type and permission bits.
	Mode uint32
	// UID and GID own it.
	UID, GID uint32
	// Size is 0 for directories, whose size is a matter of the file system.
	Size int64
	// Device is the number of a device.
	Device uint64
	// Links is the number of names; 0 for directories.
	Links uint64
	// First is the first name, in order, of the same inode.
	First string
	// ModTime is in nanoseconds, as seconds and the rest.
	ModTime [2]int64
	// Content is the sha256 of a file, or the target of a symbolic link.
	Content string
	// Xattrs are the extended attributes, sorted.
	Xattrs string
}

// Tree reads the tree at dir: every name in it, "." for dir itself. Without lost+found.
func Tree(t testing.TB, dir string) map[string]Entry {
	t.Helper()
	tree, inodes := map[string]Entry{}, map[uint64]string{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		if name == "lost+found" {
			return fs.SkipDir
		}
		e, ino, err := look(path)
		if err != nil {
			return fmt.Errorf("%q: %w", name, err)
		}
		if inodes[ino] == "" {
			inodes[ino] = name
		}
		e.First = inodes[ino]
		tree[name] = e
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return tree
}

// look reads one entry.
func look(path string) (Entry, uint64, error) {
	var s unix.Stat_t
	if err := unix.Lstat(path, &s); err != nil {
		return Entry{}, 0, err
	}
	e := Entry{
		Mode: s.Mode, UID: s.Uid, GID: s.Gid, Size: s.Size, Links: uint64(s.Nlink), Device: uint64(s.Rdev),
		ModTime: [2]int64{s.Mtim.Sec, s.Mtim.Nsec},
	}
	var err error
	switch s.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		e.Size, e.Links = 0, 0
	case unix.S_IFLNK:
		e.Content, err = os.Readlink(path)
	case unix.S_IFREG:
		e.Content, err = hashFile(path)
	}
	if err == nil {
		e.Xattrs, err = xattrs(path)
	}
	return e, s.Ino, err
}

func hashFile(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	_, err = io.Copy(h, f)
	return hex.EncodeToString(h.Sum(nil)), err
}

// xattrs returns all extended attributes of path as text.
func xattrs(path string) (string, error) {
	buf := make([]byte, 1<<16)
	n, err := unix.Llistxattr(path, buf)
	if err != nil {
		return "", err
	}
	var list []string
	for _, name := range strings.FieldsFunc(string(buf[:n]), func(r rune) bool { return r == 0 }) {
		value := make([]byte, 1<<16)
		n, err := unix.Lgetxattr(path, name, value)
		if err != nil {
			return "", fmt.Errorf("%s: %w", name, err)
		}
		list = append(list, fmt.Sprintf("%q=%x", name, value[:n]))
	}
	slices.Sort(list)
	return strings.Join(list, " "), nil
}

// Compare wants two trees to be equal, and reports the first differences.
func Compare(t testing.TB, got, want map[string]Entry) {
	t.Helper()
	reported := 0
	report := func(format string, args ...any) {
		if reported++; reported <= 20 {
			t.Errorf(format, args...)
		}
	}
	for name, w := range want {
		g, ok := got[name]
		if !ok {
			report("%q is missing", name)
		} else if g != w {
			report("%q:\n got %+v\nwant %+v", name, g, w)
		}
	}
	for name := range got {
		if _, ok := want[name]; !ok {
			report("%q is too much", name)
		}
	}
	if reported > 20 {
		t.Errorf("%d differences in all", reported)
	}
}
