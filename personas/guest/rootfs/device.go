package rootfs

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// waitDevice waits until the block device is there, and returns its path.
func waitDevice(ctx context.Context, name string) (string, error) {
	path := filepath.Join("/dev", name)
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return "", fmt.Errorf("watch /dev: %w", err)
	}
	events := os.NewFile(uintptr(fd), "inotify")
	defer events.Close()
	// The watch comes before the look, so that nothing appears in between.
	if _, err := unix.InotifyAddWatch(fd, "/dev", unix.IN_CREATE); err != nil {
		return "", fmt.Errorf("watch /dev: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { _ = events.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	buf := make([]byte, 64<<10)
	for {
		info, err := os.Stat(path)
		switch {
		case err == nil && info.Mode()&os.ModeDevice != 0:
			return path, awaitDriver(ctx, path)
		case err != nil && !errors.Is(err, os.ErrNotExist):
			return "", err
		}
		if _, err := events.Read(buf); err != nil {
			if ctx.Err() != nil {
				err = context.Cause(ctx)
			}
			return "", fmt.Errorf("wait for disk %q: %w", path, err)
		}
	}
}

// driverPoll is the time between two tries to open a device.
const driverPoll = time.Millisecond

// awaitDriver waits until a device node can be opened. The kernel makes a disk's
// node a moment before there is a disk behind it (device_add_disk, Linux 6.1), and
// there is no event for the latter.
func awaitDriver(ctx context.Context, path string) error {
	for {
		f, err := os.Open(path)
		if err == nil {
			return f.Close()
		}
		if !errors.Is(err, unix.ENXIO) {
			return err
		}
		select {
		case <-time.After(driverPoll):
		case <-ctx.Done():
			return fmt.Errorf("wait for disk %q: %w", path, context.Cause(ctx))
		}
	}
}

// deviceBytes returns the size of the block device that f's file system is on.
func deviceBytes(f *os.File) (uint64, error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return 0, err
	}
	// The kernel counts in sectors of 512 bytes here, whatever the device has.
	path := fmt.Sprintf("/sys/dev/block/%d:%d/size", unix.Major(st.Dev), unix.Minor(st.Dev))
	text, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	sectors, err := strconv.ParseUint(strings.TrimSpace(string(text)), 10, 50)
	if err != nil {
		return 0, fmt.Errorf("read %q: %w", path, err)
	}
	return sectors * 512, nil
}
