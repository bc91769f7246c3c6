package disk

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

// clone makes dst share all blocks of src.
func clone(dst, src *os.File) error {
	err := unix.IoctlFileClone(int(dst.Fd()), int(src.Fd()))
	switch err {
	case nil:
		return nil
	case unix.EOPNOTSUPP, unix.ENOTTY, unix.ENOSYS, unix.EXDEV, unix.EINVAL:
		// EXDEV: the image is on another file system. EINVAL: btrfs, and only one of
		// the two files is without checksums.
		return fmt.Errorf("%w: share blocks: %w", ErrUnsupported, err)
	}
	return &fs.PathError{Op: "share blocks", Path: src.Name(), Err: err}
}

// chunkBytes is how much is copied before ctx is looked at again.
const chunkBytes = 16 << 20

// copyData copies the data of src to the same offsets of dst, and leaves holes out.
func copyData(ctx context.Context, dst, src *os.File) error {
	end, err := src.Seek(0, io.SeekEnd)
	if err != nil {
		return err
	}
	for at := int64(0); at < end; {
		from, to, err := nextData(src, at, end)
		if err != nil {
			return err
		}
		if err := copyRange(ctx, dst, src, from, to); err != nil {
			return err
		}
		at = to
	}
	return nil
}

// nextData returns the bounds of the first data at or after offset at; both are end if
// only a hole follows.
func nextData(f *os.File, at, end int64) (from, to int64, err error) {
	from, err = f.Seek(at, unix.SEEK_DATA)
	if errors.Is(err, unix.ENXIO) {
		return end, end, nil
	}
	if err != nil {
		return 0, 0, err
	}
	to, err = f.Seek(from, unix.SEEK_HOLE)
	return from, min(to, end), err
}

func copyRange(ctx context.Context, dst, src *os.File, from, to int64) error {
	for from < to {
		if err := ctx.Err(); err != nil {
			return err
		}
		n, err := copyChunk(dst, src, from, int(min(to-from, chunkBytes)))
		if err != nil {
			return err
		}
		if n == 0 {
			return fmt.Errorf("read image: %w", io.ErrUnexpectedEOF)
		}
		from += int64(n)
	}
	return nil
}

// copyChunk lets the kernel copy, and does it itself where the kernel cannot.
func copyChunk(dst, src *os.File, at int64, n int) (int, error) {
	in, out := at, at
	copied, err := unix.CopyFileRange(int(src.Fd()), &in, int(dst.Fd()), &out, n, 0)
	switch err {
	case nil:
		return copied, nil
	case unix.EXDEV, unix.EOPNOTSUPP, unix.ENOSYS, unix.EINVAL:
		written, err := io.Copy(io.NewOffsetWriter(dst, at), io.NewSectionReader(src, at, int64(n)))
		return int(written), err
	case unix.EINTR:
		return copyChunk(dst, src, at, n)
	}
	return 0, &fs.PathError{Op: "copy", Path: src.Name(), Err: err}
}
