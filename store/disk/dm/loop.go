package dm

import (
	"context"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// loop is a part of a file as a block device.
type loop struct {
	file     *os.File
	offset   int64
	bytes    int64
	readOnly bool
}

// attach makes a loop device, which is gone when nobody has it open any more. Its
// data does not lie in the host's memory twice: what is read and written goes past
// the cache of the file, where the file system can do that.
func (l loop) attach(ctx context.Context) (*os.File, error) {
	control, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		return nil, fmt.Errorf("make loop device: %w", err)
	}
	defer control.Close()
	for {
		dev, err := l.tryAttach(control)
		if !errors.Is(err, unix.EBUSY) { // else another process has taken it
			return dev, err
		}
		if err := pause(ctx); err != nil {
			return nil, fmt.Errorf("make loop device: %w", err)
		}
	}
}

func (l loop) tryAttach(control *os.File) (*os.File, error) {
	n, err := unix.IoctlRetInt(int(control.Fd()), unix.LOOP_CTL_GET_FREE)
	if err != nil {
		return nil, fmt.Errorf("find free loop device: %w", err)
	}
	mode, flags := os.O_RDWR, uint32(unix.LO_FLAGS_AUTOCLEAR|unix.LO_FLAGS_DIRECT_IO)
	if l.readOnly {
		mode, flags = os.O_RDONLY, flags|unix.LO_FLAGS_READ_ONLY
	}
	dev, err := os.OpenFile(fmt.Sprintf("/dev/loop%d", n), mode, 0)
	if err != nil {
		return nil, fmt.Errorf("open loop device: %w", err)
	}
	config := unix.LoopConfig{Fd: uint32(l.file.Fd()), Info: unix.LoopInfo64{
		Offset: uint64(l.offset), Sizelimit: uint64(l.bytes), Flags: flags,
	}}
	if err := unix.IoctlLoopConfigure(int(dev.Fd()), &config); err != nil {
		dev.Close()
		return nil, fmt.Errorf("configure loop device: %w", err)
	}
	return dev, nil
}

// number is "major:minor" of an open device.
func number(dev *os.File) (string, error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(dev.Fd()), &st); err != nil {
		return "", fmt.Errorf("stat device: %w", err)
	}
	return fmt.Sprintf("%d:%d", unix.Major(st.Rdev), unix.Minor(st.Rdev)), nil
}
