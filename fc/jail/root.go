package jail

import (
	"errors"
	"fmt"
	"os"
	"path"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// systemPaths is what a program with shared libraries needs of the host. Symbolic
// links, as of a merged /usr, become the same links.
var systemPaths = []string{
	"/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32",
	"/etc/ld.so.cache", "/nix/store", "/gnu/store",
}

// cloneTrees makes a detached mount of every descriptor that came. This must
// happen before the mount namespace is left: the kernel clones only mounts of the
// caller's namespace, and those of the descriptors stay in the old one for ever
// (a bind mount of /proc/self/fd/N afterwards is EINVAL).
func (p *plan) cloneTrees() ([]int, error) {
	trees := make([]int, len(p.Files))
	for i, f := range p.Files {
		if f.Device {
			continue
		}
		fd, err := unix.OpenTree(p.fds[firstAt+i], "", unix.AT_EMPTY_PATH|unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
		if err != nil {
			return nil, mountError("clone the mount of "+f.Target, err)
		}
		if err := harden(fd, f.ReadOnly, f.Exec); err != nil {
			return nil, mountError("restrict the mount of "+f.Target, err)
		}
		trees[i] = fd
	}
	return trees, nil
}

// buildRoot leaves the mount namespace, builds the new root and makes it the only one.
func (p *plan) buildRoot(trees []int) error {
	// The working directory is translated to the new namespace, a descriptor is not.
	if err := unix.Fchdir(p.fds[rootAt]); err != nil {
		return fmt.Errorf("enter jail directory: %v", err)
	}
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return mountError("leave the mount namespace", err)
	}
	err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, "")
	if errors.Is(err, unix.EINVAL) {
		// Nor would pivot_root(2) work. Not to be mended from here: what lies around
		// the root would stay in the jail, and its mounts be the host's too.
		return errors.New("make mounts private: the root directory is not a mount point, as after a plain chroot (make it one before the chroot, with \"mount --bind DIR DIR\", or use a container)")
	}
	if err != nil {
		return mountError("make mounts private", err)
	}
	if err := mountNewRoot(rootBytes, unix.MOUNT_ATTR_NOEXEC); err != nil {
		return err
	}
	// From here on the working directory is the new root, and relative names are in it.
	if p.Jailer {
		err = p.fillForJailer(trees)
	} else {
		err = p.fill(trees)
	}
	if err != nil {
		return err
	}
	// With both names equal the old root ends up on top of the new one and can be
	// detached without having had a directory (pivot_root(2), notes).
	if err := unix.PivotRoot(".", "."); err != nil {
		return mountError("change root", err)
	}
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return mountError("detach the old root", err)
	}
	if err := unix.Chdir("/"); err != nil {
		return fmt.Errorf("enter new root: %v", err)
	}
	attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}
	if err := unix.MountSetattr(unix.AT_FDCWD, "/", 0, &attr); err != nil {
		return mountError("make root read-only", err)
	}
	return nil
}

// fill makes the VMM's root in the working directory.
func (p *plan) fill(trees []int) error {
	if err := p.bindSystem(); err != nil {
		return err
	}
	if err := p.placeFiles(trees, false); err != nil {
		return err
	}
	if err := p.makeDev(); err != nil {
		return err
	}
	return mountProc()
}

// placeFiles puts those files, outer or not, where they belong in the working directory.
func (p *plan) placeFiles(trees []int, outer bool) error {
	for i, f := range p.Files {
		var err error
		switch {
		case f.Outer != outer:
		case f.Device:
			err = p.makeDiskNode(p.fds[firstAt+i], f.Target)
		default:
			err = place(trees[i], f.Target, f.Dir)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// rootBytes is room for names, nodes and mount points.
const rootBytes = 1 << 20

// mountNewRoot mounts an empty tmpfs over the working directory and enters it.
func mountNewRoot(bytes int64, attributes int) error {
	fs, err := unix.Fsopen("tmpfs", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return mountError("open tmpfs", err)
	}
	for _, kv := range [][2]string{{"size", strconv.FormatInt(bytes, 10)}, {"mode", "0755"}} {
		if err := unix.FsconfigSetString(fs, kv[0], kv[1]); err != nil {
			return mountError("set tmpfs "+kv[0], err)
		}
	}
	if err := unix.FsconfigCreate(fs); err != nil {
		return mountError("create tmpfs", err)
	}
	root, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, unix.MOUNT_ATTR_NOSUID|attributes)
	if err != nil {
		return mountError("mount tmpfs", err)
	}
	if err := unix.MoveMount(root, "", unix.AT_FDCWD, ".", unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return mountError("attach new root", err)
	}
	if err := unix.Fchdir(root); err != nil {
		return fmt.Errorf("enter new root: %v", err)
	}
	return nil
}

// bindSystem shows the host's programs and libraries, read-only.
func (p *plan) bindSystem() error {
	if !p.System {
		return nil
	}
	for _, host := range systemPaths {
		target := strings.TrimPrefix(host, "/")
		if link, err := os.Readlink(host); err == nil {
			if err := parents(target); err != nil {
				return err
			}
			if err := os.Symlink(link, target); err != nil && !errors.Is(err, os.ErrExist) {
				return fmt.Errorf("link %s: %v", host, err)
			}
			continue
		}
		fi, err := os.Stat(host)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return fmt.Errorf("look at %s: %v", host, err)
		}
		fd, err := unix.OpenTree(unix.AT_FDCWD, host, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_RECURSIVE)
		if err != nil {
			return mountError("clone "+host, err)
		}
		if err := harden(fd, true, true); err != nil {
			return mountError("restrict "+host, err)
		}
		if err := place(fd, target, fi.IsDir()); err != nil {
			return err
		}
	}
	return nil
}

// harden takes from a detached mount and all below what a jail never needs.
func harden(fd int, readOnly, exec bool) error {
	attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV}
	if readOnly {
		attr.Attr_set |= unix.MOUNT_ATTR_RDONLY
	}
	if !exec {
		attr.Attr_set |= unix.MOUNT_ATTR_NOEXEC
	}
	return unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH|unix.AT_RECURSIVE, &attr)
}

// place attaches the detached mount fd at target in the working directory.
func place(fd int, target string, dir bool) error {
	if err := mountPoint(target, dir); err != nil {
		return err
	}
	if err := unix.MoveMount(fd, "", unix.AT_FDCWD, target, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return mountError("attach "+target, err)
	}
	return unix.Close(fd)
}

// mountPoint makes an empty directory or file to mount over.
func mountPoint(target string, dir bool) error {
	if dir {
		if err := os.MkdirAll(target, 0o755); err != nil {
			return fmt.Errorf("make mount point: %v", err)
		}
		return nil
	}
	if err := parents(target); err != nil {
		return err
	}
	f, err := os.OpenFile(target, os.O_CREATE|os.O_RDONLY, 0o444)
	if err != nil {
		return fmt.Errorf("make mount point: %v", err)
	}
	return f.Close()
}

func parents(target string) error {
	if err := os.MkdirAll(path.Dir(target), 0o755); err != nil {
		return fmt.Errorf("make mount point: %v", err)
	}
	return nil
}

// mountProc mounts the proc of the own pid namespace, read-only.
func mountProc() error {
	if err := mountPoint("proc", true); err != nil {
		return err
	}
	const flags = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC | unix.MS_RDONLY
	if err := unix.Mount("proc", "proc", "proc", flags, ""); err != nil {
		return mountError("mount proc", err)
	}
	return nil
}

// mountError explains the refusals that come from the environment and not from us.
func mountError(what string, err error) error {
	switch {
	case errors.Is(err, unix.EPERM):
		return fmt.Errorf("%s: %v (this environment refuses mounts: a container needs CAP_SYS_ADMIN and no mount filter)", what, err)
	case errors.Is(err, unix.ENOSYS):
		return fmt.Errorf("%s: %v (Linux 5.12 or later is needed)", what, err)
	}
	return fmt.Errorf("%s: %v", what, err)
}
