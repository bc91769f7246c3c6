package ext4

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// ioctlUint64 does an ioctl that takes a pointer to 64 bits.
func ioctlUint64(fd uintptr, req uint, v uint64) error {
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, fd, uintptr(req), uintptr(unsafe.Pointer(&v))); errno != 0 {
		return errno
	}
	return nil
}
