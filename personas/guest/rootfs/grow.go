package rootfs

import (
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// ext4ResizeFS is EXT4_IOC_RESIZE_FS, _IOW('f', 16, __u64).
const ext4ResizeFS = 0x40086610

// Grow resizes the mounted ext4 that dir lies on to the size of its device.
// Nothing is unmounted. A file system that is as large already is no error.
func Grow(dir string) error {
	f, err := os.OpenFile(dir, os.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	var fs unix.Statfs_t
	if err := unix.Fstatfs(int(f.Fd()), &fs); err != nil {
		return fmt.Errorf("statfs %q: %w", dir, err)
	}
	if fs.Type != unix.EXT4_SUPER_MAGIC {
		return fmt.Errorf("grow %q: not ext4: %w", dir, unix.EOPNOTSUPP)
	}
	device, err := deviceBytes(f)
	if err != nil {
		return err
	}
	blocks := device / uint64(fs.Bsize)
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), ext4ResizeFS, uintptr(unsafe.Pointer(&blocks)))
	if errno != 0 {
		return fmt.Errorf("grow %q to %d blocks: %w", dir, blocks, errno)
	}
	return nil
}
