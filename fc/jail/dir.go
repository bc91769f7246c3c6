package jail

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// dir is a jail directory: the record, and the run directory that the VMM sees as RunPath.
//
//	PARENT/ID-RANDOM/             root, 0700: nobody else gets past here by a path
//	PARENT/ID-RANDOM/record.json
//	PARENT/ID-RANDOM/run/         the VM's uid until Seal, 0711: whoever holds a descriptor may search it
type dir struct {
	parent *os.File
	name   string
	root   *os.File
	run    *os.File // O_PATH

	closeOnce sync.Once
	closeErr  error
}

// makeDir makes a jail directory with a name that nobody can have foreseen; one that
// exists is never used (CVE-2026-1386 was a jailer that did).
func makeDir(s *Spec) (_ *dir, err error) {
	p, err := openParent(s.Parent)
	if err != nil {
		return nil, err
	}
	var random [8]byte
	_, _ = rand.Read(random[:]) // never fails
	d := &dir{parent: p, name: s.ID + "-" + hex.EncodeToString(random[:])}
	if err := unix.Mkdirat(int(p.Fd()), d.name, 0o700); err != nil {
		p.Close()
		return nil, fmt.Errorf("make jail directory: %v", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, d.remove(), d.close())
		}
	}()
	if d.root, err = openDir(p, d.name, unix.O_RDONLY); err != nil {
		return nil, err
	}
	if err := unix.Mkdirat(int(d.root.Fd()), "run", 0o700); err != nil {
		return nil, fmt.Errorf("make run directory: %v", err)
	}
	if d.run, err = openDir(d.root, "run", unix.O_PATH); err != nil {
		return nil, err
	}
	mode, gid := uint32(0o711), s.GID
	if s.Shared {
		mode, gid = 0o771, os.Getegid()
	}
	if err := unix.Fchmodat(int(d.root.Fd()), "run", mode, 0); err != nil {
		return nil, fmt.Errorf("open run directory to its users: %v", err)
	}
	if err := unix.Fchownat(int(d.run.Fd()), "", s.UID, gid, unix.AT_EMPTY_PATH); err != nil {
		return nil, fmt.Errorf("give run directory to uid %d: %v", s.UID, err)
	}
	return d, nil
}

// findDir opens a jail directory that was made before.
func findDir(path string) (_ *dir, err error) {
	p, err := openParent(filepath.Dir(path))
	if err != nil {
		return nil, err
	}
	d := &dir{parent: p, name: filepath.Base(path)}
	defer func() {
		if err != nil {
			err = errors.Join(err, d.close())
		}
	}()
	if i := strings.LastIndexByte(d.name, '-'); i < 0 || !validID(d.name[:i]) {
		return nil, fmt.Errorf("open jail directory: bad name %q", d.name)
	}
	if d.root, err = openDir(p, d.name, unix.O_RDONLY); err != nil {
		return nil, err
	}
	d.run, err = openDir(d.root, "run", unix.O_PATH)
	return d, err
}

// openParent opens the directory that holds the jail directories, and refuses one in
// which somebody else can make names.
func openParent(path string) (*os.File, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open jail parent %q: %w", path, err)
	}
	f := os.NewFile(uintptr(fd), path)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		f.Close()
		return nil, fmt.Errorf("look at jail parent %q: %v", path, err)
	}
	if int(st.Uid) != os.Geteuid() || st.Mode&0o022 != 0 {
		f.Close()
		return nil, fmt.Errorf("open jail parent %q: owned by uid %d with mode %04o, must be uid %d's alone", path, st.Uid, st.Mode&0o7777, os.Geteuid())
	}
	return f, nil
}

// openDir opens a directory below another, never through a link.
func openDir(at *os.File, name string, flags int) (*os.File, error) {
	fd, err := unix.Openat(int(at.Fd()), name, flags|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open jail directory %q: %w", name, err)
	}
	return os.NewFile(uintptr(fd), name), nil
}

// path names the directory for people and records.
func (d *dir) path() string { return filepath.Join(d.parent.Name(), d.name) }

// close closes the descriptors.
func (d *dir) close() error {
	d.closeOnce.Do(func() {
		for _, f := range []*os.File{d.run, d.root, d.parent} {
			if f != nil {
				d.closeErr = errors.Join(d.closeErr, f.Close())
			}
		}
	})
	return d.closeErr
}
