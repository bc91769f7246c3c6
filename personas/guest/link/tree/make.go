package tree

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"banger/personas/guest/link/frame"
)

// make makes the entry e as name in dir.
func (u *receiver) make(dir *os.File, name string, e *entry) error {
	fd := int(dir.Fd())
	if e.Kind == kindDir {
		return u.makeDir(fd, name, e)
	}
	if (e.Kind == kindChar || e.Kind == kindBlock) && !u.opt.Trusted {
		return u.fail("make device", string(e.Path), unix.EPERM)
	}
	busy, err := u.remove(fd, name, e)
	if err != nil {
		return err
	}
	switch e.Kind {
	case kindFile:
		return u.makeFile(fd, name, e, busy)
	case kindLink:
		return u.makeLink(fd, name, e)
	case kindSymlink:
		err = unix.Symlinkat(string(e.Target), fd, name)
	case kindFIFO:
		err = unix.Mknodat(fd, name, unix.S_IFIFO|0o600, 0)
	case kindChar:
		err = unix.Mknodat(fd, name, unix.S_IFCHR|0o600, int(e.Rdev))
	case kindBlock:
		err = unix.Mknodat(fd, name, unix.S_IFBLK|0o600, int(e.Rdev))
	}
	if err != nil {
		return u.fail("make", string(e.Path), err)
	}
	return u.finishAt(fd, name, e)
}

func (u *receiver) makeDir(fd int, name string, e *entry) error {
	if len(u.stack) >= maxDepth {
		return u.fail("make directory", string(e.Path), unix.ENAMETOOLONG)
	}
	if err := unix.Mkdirat(fd, name, 0o700); err != nil && !errors.Is(err, unix.EEXIST) {
		return u.fail("make directory", string(e.Path), err)
	}
	// A link to a directory is none: O_NOFOLLOW says ENOTDIR.
	dir, err := openat(fd, name, unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return u.fail("open", string(e.Path), err)
	}
	u.stack = append(u.stack, level{path: string(e.Path), dir: dir, head: e})
	return nil
}

// remove makes room for a file that is no directory. It reports busy for a file
// that is a mount point, and cannot be removed but written to.
func (u *receiver) remove(fd int, name string, e *entry) (busy bool, err error) {
	err = unix.Unlinkat(fd, name, 0)
	switch {
	case err == nil, errors.Is(err, unix.ENOENT):
		return false, nil
	case errors.Is(err, unix.EBUSY) && e.Kind == kindFile:
		return true, nil
	}
	return false, u.fail("replace", string(e.Path), err)
}

func (u *receiver) makeFile(fd int, name string, e *entry, busy bool) error {
	flags := unix.O_WRONLY | unix.O_CREAT | unix.O_EXCL
	if busy {
		flags = unix.O_WRONLY | unix.O_TRUNC
	}
	f, err := unix.Openat(fd, name, flags|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return u.fail("make", string(e.Path), err)
	}
	u.file, u.head, u.end = os.NewFile(uintptr(f), name), e, 0
	return nil
}

// closeFile ends the file that takes chunks, if there is one. A hole at its end
// came as a size only.
func (u *receiver) closeFile() error {
	f, e := u.file, u.head
	if f == nil {
		return nil
	}
	u.file, u.head = nil, nil
	defer f.Close()
	if u.end < e.Size {
		if err := f.Truncate(e.Size); err != nil {
			return u.fail("extend", string(e.Path), err)
		}
	}
	if err := u.finish(f, e); err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return u.fail("close", string(e.Path), err)
	}
	return nil
}

// makeLink gives another name to a file of this source. The way to it is opened
// one name at a time, because a link on it could lead anywhere.
func (u *receiver) makeLink(fd int, name string, e *entry) error {
	if len(u.stack) == 0 {
		return fmt.Errorf("%w: link without directory", frame.ErrProtocol)
	}
	at, rest := u.stack[0].dir, string(e.Target)
	parent, last := split(rest)
	if parent != "" {
		for n := range strings.SplitSeq(parent, "/") {
			next, err := openat(int(at.Fd()), n, unix.O_RDONLY|unix.O_DIRECTORY)
			if at != u.stack[0].dir {
				at.Close()
			}
			if err != nil {
				return u.fail("link", string(e.Path), err)
			}
			at = next
		}
	}
	err := unix.Linkat(int(at.Fd()), last, fd, name, 0)
	if at != u.stack[0].dir {
		at.Close()
	}
	if err != nil {
		return u.fail("link", string(e.Path), err)
	}
	return nil
}

// mode is what u grants of e's permission bits.
func (u *receiver) mode(e *entry) uint32 {
	if u.opt.Trusted {
		return e.Mode
	}
	return e.Mode & 0o777
}

// finish sets the attributes of an open file or directory. The order matters: a
// change of owner takes setuid bits and capabilities away, and a mode without
// writing forbids attributes to all but root.
func (u *receiver) finish(f *os.File, e *entry) error {
	fd := int(f.Fd())
	if u.opt.Owners {
		if err := unix.Fchown(fd, int(e.UID), int(e.GID)); err != nil {
			return u.fail("change owner of", string(e.Path), err)
		}
	}
	if err := writeXattrs(fd, e.Xattrs, u.opt.Trusted); err != nil {
		return u.fail("set attributes of", string(e.Path), err)
	}
	if err := unix.Fchmod(fd, u.mode(e)); err != nil {
		return u.fail("change mode of", string(e.Path), err)
	}
	times := []unix.Timespec{{Nsec: unix.UTIME_OMIT}, {Sec: e.Sec, Nsec: e.Nsec}}
	if err := unix.UtimesNanoAt(unix.AT_FDCWD, fmt.Sprintf("/proc/self/fd/%d", fd), times, 0); err != nil {
		return u.fail("set time of", string(e.Path), err)
	}
	return nil
}

// finishAt sets the attributes of what cannot be opened.
func (u *receiver) finishAt(dir int, name string, e *entry) error {
	if u.opt.Owners {
		if err := unix.Fchownat(dir, name, int(e.UID), int(e.GID), unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return u.fail("change owner of", string(e.Path), err)
		}
	}
	if e.Kind != kindSymlink {
		// The name was made a moment ago, and is no link.
		if err := unix.Fchmodat(dir, name, u.mode(e), 0); err != nil {
			return u.fail("change mode of", string(e.Path), err)
		}
	}
	times := []unix.Timespec{{Nsec: unix.UTIME_OMIT}, {Sec: e.Sec, Nsec: e.Nsec}}
	if err := unix.UtimesNanoAt(dir, name, times, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return u.fail("set time of", string(e.Path), err)
	}
	return nil
}
