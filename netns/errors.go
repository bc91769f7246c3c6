package netns

import (
	"errors"
	"io/fs"

	"golang.org/x/sys/unix"
)

// ErrForeign is wrapped by errors that say that an object of banger's name
// stands already and was not made by banger. It is never touched.
var ErrForeign = errors.New("not made by banger")

// kernelError gives an errno of the network code the meaning that its own
// package does not know: that a device does not exist is ENODEV, which is not
// fs.ErrNotExist.
type kernelError struct {
	errno unix.Errno
	is    error
}

func (e kernelError) Error() string        { return e.errno.Error() }
func (e kernelError) Unwrap() error        { return e.errno }
func (e kernelError) Is(target error) bool { return target == e.is }

// edge translates what comes from the kernel, so that callers test for
// fs.ErrNotExist, fs.ErrExist and fs.ErrPermission and for nothing else.
func edge(err error) error {
	var errno unix.Errno
	if !errors.As(err, &errno) {
		return err
	}
	switch errno {
	case unix.ENODEV, unix.ENXIO, unix.ESRCH, unix.EADDRNOTAVAIL:
		return kernelError{errno, fs.ErrNotExist}
	}
	return err
}

// gone turns the absence of what was to be removed into success.
func gone(err error) error {
	if err = edge(err); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
