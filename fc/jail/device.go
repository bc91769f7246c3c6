package jail

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// isBlockDevice reports whether f is one. What cannot be looked at is none, and is
// refused where it is used.
func isBlockDevice(f *os.File) bool {
	var st unix.Stat_t
	return unix.Fstat(int(f.Fd()), &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFBLK
}

// makeDiskNode makes the VM's own node of the block device that fd is. A mount of the
// host's would have the host's owner and mode, which are none of ours to change.
func (p *plan) makeDiskNode(fd int, target string) error {
	var st unix.Stat_t
	err := unix.Fstat(fd, &st)
	if err == nil && st.Mode&unix.S_IFMT != unix.S_IFBLK {
		err = errors.New("it is no block device")
	}
	if err == nil {
		err = unix.Mknod(target, unix.S_IFBLK|0o600, int(st.Rdev))
	}
	if err == nil {
		err = unix.Lchown(target, p.UID, p.GID)
	}
	if err != nil {
		return fmt.Errorf("make /%s: %v", target, err)
	}
	return nil
}

// keepDevices lets the VMM inherit the block devices, of which it has nodes anyway.
func (p *plan) keepDevices() error {
	for i, f := range p.Files {
		if !f.Device {
			continue
		}
		if p.Jailer {
			if err := keepAsInput(p.fds[firstAt+i]); err != nil {
				return fmt.Errorf("keep /%s open: %v", f.Target, err)
			}
			continue
		}
		if _, err := unix.FcntlInt(uintptr(p.fds[firstAt+i]), unix.F_SETFD, 0); err != nil {
			return fmt.Errorf("keep /%s open: %v", f.Target, err)
		}
	}
	return nil
}

// keepAsInput makes a device the standard input, from which nothing can be read.
func keepAsInput(fd int) error {
	if _, err := unix.Seek(fd, 0, unix.SEEK_END); err != nil {
		return err
	}
	return unix.Dup3(fd, 0, 0)
}
