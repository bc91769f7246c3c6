package rootfs

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Switch makes the mounted root file system the root of this process and of all
// that follow, takes the kernel's mounts along, and empties the initrd, whose
// files would stay in memory for ever.
func Switch() error {
	old, err := os.OpenFile("/", os.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	defer old.Close()
	for _, m := range []string{"/dev", "/proc", "/sys", "/run"} {
		target := filepath.Join(newRoot, m)
		if err := os.Mkdir(target, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
			return err
		}
		if err := unix.Mount(m, target, "", unix.MS_MOVE, ""); err != nil {
			return fmt.Errorf("move mount %q: %w", m, err)
		}
	}
	if err := os.Chdir(newRoot); err != nil {
		return err
	}
	if err := unix.Mount(".", "/", "", unix.MS_MOVE, ""); err != nil {
		return fmt.Errorf("move mount %q to /: %w", newRoot, err)
	}
	if err := unix.Chroot("."); err != nil {
		return fmt.Errorf("chroot: %w", err)
	}
	if err := os.Chdir("/"); err != nil {
		return err
	}
	return empty(old)
}

// CheckInitrd refuses a root directory that is none of an initrd's: what follows
// in a boot would change, and in its failure end, a machine that is not ours.
func CheckInitrd() error {
	root, err := os.OpenFile("/", os.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	defer root.Close()
	memory, err := inMemory(root)
	if err == nil && !memory {
		err = errors.New("the root directory is on a disk, not in an initrd")
	}
	return err
}

// inMemory reports whether a directory is on a file system without a disk.
func inMemory(dir *os.File) (bool, error) {
	var fs unix.Statfs_t
	if err := unix.Fstatfs(int(dir.Fd()), &fs); err != nil {
		return false, fmt.Errorf("statfs %q: %w", dir.Name(), err)
	}
	return fs.Type == unix.RAMFS_MAGIC || fs.Type == unix.TMPFS_MAGIC, nil
}

// empty removes the files of a root in memory, and never those of a disk.
func empty(root *os.File) error {
	memory, err := inMemory(root)
	if err != nil || !memory {
		return err
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(root.Fd()), &st); err != nil {
		return err
	}
	return emptyDir(root, st.Dev)
}

// emptyDir removes what is in dir, and stays on the device dev: a mount that is
// still there is not the initrd's.
func emptyDir(dir *os.File, dev uint64) error {
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return err
	}
	for _, name := range names {
		var st unix.Stat_t
		fd := int(dir.Fd())
		if err := unix.Fstatat(fd, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil || st.Dev != dev {
			continue
		}
		flags := 0
		if st.Mode&unix.S_IFMT == unix.S_IFDIR {
			flags = unix.AT_REMOVEDIR
			sub, err := unix.Openat(fd, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
			if err != nil {
				return err
			}
			f := os.NewFile(uintptr(sub), name)
			err = emptyDir(f, dev)
			f.Close()
			if err != nil {
				return err
			}
		}
		if err := unix.Unlinkat(fd, name, flags); err != nil && !errors.Is(err, unix.EBUSY) {
			return fmt.Errorf("remove %q of the initrd: %w", name, err)
		}
	}
	return nil
}
