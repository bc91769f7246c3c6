package jail

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"
)

// maxEntries bounds how many files one removal deletes: a VMM may have filled its run
// directory. The rest is left for the next attempt, and reported.
const maxEntries = 1 << 20

// bareDir opens a jail directory whose making or removal was interrupted before its run
// directory was there. It returns nil without an error if there is no jail directory at all.
func bareDir(path string) (*dir, error) {
	p, err := openParent(filepath.Dir(path))
	if err != nil {
		if errors.Is(err, os.ErrNotExist) {
			return nil, nil
		}
		return nil, err
	}
	d := &dir{parent: p, name: filepath.Base(path)}
	if d.root, err = openDir(p, d.name, unix.O_RDONLY); err != nil {
		err = errors.Join(err, d.close())
		if errors.Is(err, os.ErrNotExist) {
			return nil, nil
		}
		return nil, err
	}
	return d, nil
}

// remove deletes the jail directory with all that a VMM may have planted in it. It
// follows no link and crosses no mount. Trees of any depth are taken apart from the top:
// a directory that holds others hands them to the jail directory first, so that two
// descriptors are enough for all.
func (d *dir) remove() error {
	if d.root != nil {
		if err := d.empty(); err != nil {
			return fmt.Errorf("remove jail %s: %w", d.name, err)
		}
	}
	err := unix.Unlinkat(int(d.parent.Fd()), d.name, unix.AT_REMOVEDIR)
	if err != nil && err != unix.ENOENT {
		return fmt.Errorf("remove jail %s: %w", d.name, err)
	}
	return nil
}

// empty removes everything in the jail directory.
func (d *dir) empty() error {
	w := wrecker{root: d.root, left: maxEntries}
	for {
		dirs, err := w.removeFiles(d.root)
		if err != nil {
			return err
		}
		if len(dirs) == 0 {
			return nil
		}
		for _, name := range dirs {
			if err := w.flatten(name); err != nil {
				return err
			}
		}
	}
}

// wrecker counts what a removal has deleted.
type wrecker struct {
	root *os.File
	left int
	seq  int
}

// openHere opens a directory whose name is one of dir's entries, without following a
// link, and says EXDEV if something is mounted there. openat2 would do all of that at
// once, and is not to be had where systemd forbids set-user-id files. What a VMM has
// made its own becomes ours first: its keeper need not have CAP_DAC_OVERRIDE.
func openHere(dir *os.File, name string) (fd int, err error) {
	at, err := unix.Openat(int(dir.Fd()), name, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	f := os.NewFile(uintptr(at), name)
	defer f.Close()
	var here, there unix.Statx_t
	err = unix.Statx(int(dir.Fd()), "", unix.AT_EMPTY_PATH, unix.STATX_MNT_ID, &here)
	if err == nil {
		err = unix.Statx(at, "", unix.AT_EMPTY_PATH, unix.STATX_MNT_ID|unix.STATX_UID|unix.STATX_MODE, &there)
	}
	if err == nil && here.Mnt_id != there.Mnt_id {
		err = unix.EXDEV
	}
	if err == nil && (int(there.Uid) != os.Geteuid() || there.Mode&0o700 != 0o700) {
		err = own(f, 0o700)
	}
	if err != nil {
		return -1, err
	}
	return unix.Open(fdPath(f), unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
}

// own makes a directory ours, with a mode.
func own(dir *os.File, mode uint32) error {
	if err := unix.Fchownat(int(dir.Fd()), "", os.Geteuid(), os.Getegid(), unix.AT_EMPTY_PATH); err != nil {
		return err
	}
	return unix.Chmod(fdPath(dir), mode)
}

// flatten removes a directory in root, after moving the directories in it to root.
func (w *wrecker) flatten(name string) error {
	fd, err := openHere(w.root, name)
	if err == unix.EXDEV {
		return fmt.Errorf("%s is a mount point, leaving it", name)
	}
	if err != nil {
		return fmt.Errorf("open %s: %w", name, err)
	}
	f := os.NewFile(uintptr(fd), name)
	defer f.Close()
	for {
		dirs, err := w.removeFiles(f)
		if err != nil {
			return err
		}
		if len(dirs) == 0 {
			break
		}
		for _, sub := range dirs {
			// To move a directory takes the right to write to it.
			if own, err := openHere(f, sub); err == nil {
				unix.Close(own)
			}
			w.seq++
			to := "." + strconv.Itoa(w.seq)
			if err := unix.Renameat2(fd, sub, int(w.root.Fd()), to, unix.RENAME_NOREPLACE); err != nil && err != unix.EEXIST {
				return fmt.Errorf("move %q: %w", sub, err)
			}
		}
	}
	return unix.Unlinkat(int(w.root.Fd()), name, unix.AT_REMOVEDIR)
}

// removeFiles deletes what is no directory, or an empty one, in the next lot of entries of f,
// and returns the names of the other directories. Nothing returned means that f is empty.
func (w *wrecker) removeFiles(f *os.File) ([]string, error) {
	for {
		if _, err := f.Seek(0, 0); err != nil {
			return nil, err
		}
		names, err := f.Readdirnames(1024)
		if len(names) == 0 {
			return nil, nil // end of file, or the reason is met by the removal
		}
		if err != nil {
			return nil, err
		}
		var dirs []string
		for _, name := range names {
			if w.left--; w.left < 0 {
				return nil, fmt.Errorf("more than %d entries, leaving the rest", maxEntries)
			}
			err := unix.Unlinkat(int(f.Fd()), name, 0)
			if err == unix.EISDIR {
				// An empty one goes at once: there may be very many.
				if err = unix.Unlinkat(int(f.Fd()), name, unix.AT_REMOVEDIR); err != nil && err != unix.ENOENT {
					dirs = append(dirs, name)
				}
			} else if err != nil && err != unix.ENOENT {
				return nil, fmt.Errorf("remove %q: %w", name, err)
			}
		}
		if len(dirs) > 0 {
			return dirs, nil
		}
	}
}
