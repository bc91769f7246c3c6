package image

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// tempPrefix begins the names of unfinished files beside a destination. They exist for a
// moment only, except on file systems without O_TMPFILE; after a crash they may be removed.
const tempPrefix = ".import-"

// draft is a file that has no name yet, or a temporary one.
type draft struct {
	*os.File
	dir  string
	name string // empty: none
}

// newDraft opens a file in dir that vanishes unless it is published.
func newDraft(dir string) (*draft, error) {
	f, err := os.OpenFile(dir, unix.O_TMPFILE|os.O_RDWR, 0o600)
	if err == nil {
		return &draft{File: f, dir: dir}, nil
	}
	if !errors.Is(err, unix.EOPNOTSUPP) && !errors.Is(err, unix.EISDIR) {
		return nil, err
	}
	if f, err = os.CreateTemp(dir, tempPrefix+"*"); err != nil {
		return nil, err
	}
	return &draft{File: f, dir: dir, name: f.Name()}, nil
}

// publish syncs the file, calls finished meanwhile, which may be nil, and gives the
// file its name, in place of what has it now.
func (d *draft) publish(path string, finished func(*os.File) error) error {
	synced := make(chan error, 1)
	go func() { synced <- d.Sync() }()
	var err error
	if finished != nil {
		err = finished(d.File)
	}
	if serr := <-synced; serr != nil {
		return fmt.Errorf("sync: %w", serr)
	}
	if err != nil {
		return err
	}
	if d.name == "" {
		self := fmt.Sprintf("/proc/self/fd/%d", d.Fd())
		temp := filepath.Join(d.dir, tempPrefix+rand.Text())
		if err := unix.Linkat(unix.AT_FDCWD, self, unix.AT_FDCWD, temp, unix.AT_SYMLINK_FOLLOW); err != nil {
			return &fs.PathError{Op: "link", Path: temp, Err: err}
		}
		d.name = temp
	}
	if err := os.Rename(d.name, path); err != nil {
		return err
	}
	d.name = ""
	dir, err := os.Open(d.dir)
	if err != nil {
		return err
	}
	defer dir.Close()
	return dir.Sync()
}

// discard closes the file, and removes it unless it was published.
func (d *draft) discard() {
	if d.name != "" {
		os.Remove(d.name)
	}
	d.Close()
}
