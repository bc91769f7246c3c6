package agent

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"banger/personas/guest/link"
)

const noCTTY = unix.O_NOCTTY

// openTerminal makes a pseudo terminal whose slave belongs to uid.
func openTerminal(uid int) (master, slave *os.File, err error) {
	master, err = os.OpenFile("/dev/ptmx", os.O_RDWR|noCTTY, 0)
	if err != nil {
		return nil, nil, err
	}
	var fd int
	err = control(master, func(m int) error {
		if err := unix.IoctlSetPointerInt(m, unix.TIOCSPTLCK, 0); err != nil {
			return err
		}
		// By the master, not by a name: /dev/pts need not be the instance that
		// /dev/ptmx belongs to.
		peer, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(m), unix.TIOCGPTPEER, unix.O_RDWR|noCTTY|unix.O_CLOEXEC)
		if errno != 0 {
			return errno
		}
		fd = int(peer)
		return nil
	})
	if err != nil {
		master.Close()
		return nil, nil, fmt.Errorf("open terminal: %w", err)
	}
	slave = os.NewFile(uintptr(fd), "terminal")
	if err := slave.Chown(uid, -1); err != nil {
		master.Close()
		slave.Close()
		return nil, nil, err
	}
	return master, slave, nil
}

// resize tells the terminal its size; the kernel tells the command.
func resize(master *os.File, size link.WinSize) error {
	return control(master, func(fd int) error {
		return unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, &unix.Winsize{Row: size.Rows, Col: size.Cols})
	})
}

// control calls fn with f's descriptor, and leaves f as pollable as it was.
func control(f *os.File, fn func(fd int) error) error {
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var inner error
	if err := raw.Control(func(fd uintptr) { inner = fn(int(fd)) }); err != nil {
		return err
	}
	return inner
}
