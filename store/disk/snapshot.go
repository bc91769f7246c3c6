package disk

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"

	"banger/store/disk/cow"
)

// layout returns what is where in the file of a snapshot. Sizes are known.
func (s Spec) layout() (cow.Layout, error) {
	info, err := s.Origin.Stat()
	if err != nil {
		return cow.Layout{}, err
	}
	origin := info.Size()
	if origin%cow.ChunkBytes != 0 {
		return cow.Layout{}, fmt.Errorf("%w: the image of %d bytes is not a multiple of %d", ErrUnsupported, origin, cow.ChunkBytes)
	}
	l, err := cow.Plan(origin, cow.StoreBytes(origin)+s.SizeBytes-origin)
	if err != nil {
		return l, fmt.Errorf("%w: %w", ErrSize, err)
	}
	return l, nil
}

// allocate makes f the file of a snapshot: the store with all its blocks, so that
// no write of the guest's ever finds the host's file system full, and a hole.
func allocate(f *os.File, l cow.Layout) error {
	if err := f.Truncate(l.FileBytes()); err != nil {
		return err
	}
	err := unix.Fallocate(int(f.Fd()), 0, 0, l.StoreBytes)
	for errors.Is(err, unix.EINTR) {
		err = unix.Fallocate(int(f.Fd()), 0, 0, l.StoreBytes)
	}
	if errors.Is(err, unix.EOPNOTSUPP) {
		return fmt.Errorf("%w: allocate: %w", ErrUnsupported, err)
	}
	if err != nil {
		return &fs.PathError{Op: "allocate", Path: f.Name(), Err: err}
	}
	return nil
}

// tryAllocate allocates a small file in dir: without it there are no snapshots.
func tryAllocate(dir string) error {
	f, err := scratch(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	return allocate(f, cow.Layout{OriginBytes: cow.ChunkBytes, StoreBytes: cow.StoreBytes(cow.ChunkBytes)})
}
