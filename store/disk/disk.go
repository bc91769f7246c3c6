// Package disk makes the disks of VMs out of images, by the cheapest way that the
// file system below allows.
//
//	reflink   the disk shares the image's blocks until one of them is written
//	snapshot  a store for the blocks of the image that the VM writes, with room for
//	          all of them, and what the disk has beyond the image; the kernel's device
//	          mapper puts both together (see cow, and dm for who has the right)
//	overlay   an empty file system for what the VM writes; the guest stacks it
//	          over the image, which it has as a second, read-only drive
//	copy      all data of the image, without its holes
//
// Reflink and overlay cost the same whatever the size of the image; snapshot takes
// as much room, and no time. To make none needs privilege, and in none can a VM's disk run out of room that it was promised silently:
// a full host file system is an ordinary write error to the guest.
package disk

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"banger/store/ext4"
)

// Errors of this package, for errors.Is.
var (
	// ErrNoSpace means that the file system has not enough room, or would be left
	// with less than the reserve.
	ErrNoSpace = errors.New("not enough space")
	// ErrUnsupported means that the backend does not work in that directory.
	ErrUnsupported = errors.New("backend does not work here")
	// ErrSize means a size that the disk cannot have.
	ErrSize = errors.New("impossible disk size")
)

// Backend is a way of making a disk. Its text is kept in records.
type Backend string

// The backends.
const (
	Reflink  Backend = "reflink"
	Snapshot Backend = "snapshot"
	Overlay  Backend = "overlay"
	Copy     Backend = "copy"
)

// sectorBytes is what every size is a multiple of.
const sectorBytes = 512

// Spec is a disk to be made.
type Spec struct {
	Backend Backend
	// Origin is the image, open for reading. Snapshot and overlay read only its size,
	// and overlay needs none if SizeBytes is given.
	Origin *os.File
	// SizeBytes is the size of the disk, a multiple of 512, and for a snapshot of
	// cow.ChunkBytes. Zero means the image's. Only overlay can make less than the image.
	// What is more is a hole: the file system in it has to be grown by the guest.
	SizeBytes int64
	// ReserveBytes is what must remain free in the file system.
	ReserveBytes int64
	// Volatile tells that the disk need not survive a power cut from the start, which
	// saves waiting for the host's disk.
	Volatile bool
}

// Create makes the disk at dst, which must not exist. It is there as a whole or not
// at all; nothing else is left behind. That its name survives a power cut takes a sync
// of the folder, which the caller owes.
func Create(ctx context.Context, s Spec, dst string) (err error) {
	defer func() {
		if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
			err = fmt.Errorf("%w: %w", ErrNoSpace, err)
		}
		if err != nil {
			err = fmt.Errorf("create disk %q: %w", dst, err)
		}
	}()
	if err := ctx.Err(); err != nil {
		return err
	}
	if s.SizeBytes, err = s.size(); err != nil {
		return err
	}
	dir := filepath.Dir(dst)
	if err := s.checkSpace(dir); err != nil {
		return err
	}
	f, err := os.CreateTemp(dir, ".disk-*")
	if err != nil {
		return err
	}
	defer f.Close()
	defer os.Remove(f.Name())
	if err := s.fill(ctx, f); err != nil {
		return err
	}
	if !s.Volatile {
		if err := f.Sync(); err != nil {
			return err
		}
	}
	// A link, not a rename: it never replaces what is there.
	return os.Link(f.Name(), dst)
}

// size returns the size that the disk is to have.
func (s Spec) size() (int64, error) {
	var origin int64
	if s.Origin != nil {
		info, err := s.Origin.Stat()
		if err != nil {
			return 0, err
		}
		if !info.Mode().IsRegular() {
			return 0, fmt.Errorf("%w: the image is not a regular file", ErrSize)
		}
		origin = info.Size()
	} else if s.Backend != Overlay {
		return 0, fmt.Errorf("%w: no image", ErrSize)
	}
	size := s.SizeBytes
	if size == 0 {
		size = origin
	}
	switch {
	case size <= 0 || size%sectorBytes != 0:
		return 0, fmt.Errorf("%w: %d bytes is not a positive multiple of %d", ErrSize, size, sectorBytes)
	case s.Backend != Overlay && size < origin:
		return 0, fmt.Errorf("%w: %d bytes is less than the image's %d", ErrSize, size, origin)
	}
	return size, nil
}

// fill makes f the disk.
func (s Spec) fill(ctx context.Context, f *os.File) error {
	switch s.Backend {
	case Reflink:
		if err := clone(f, s.Origin); err != nil {
			return err
		}
	case Copy:
		if err := copyData(ctx, f, s.Origin); err != nil {
			return err
		}
	case Snapshot:
		l, err := s.layout()
		if err != nil {
			return err
		}
		return allocate(f, l)
	case Overlay:
		return format(f, s.SizeBytes)
	default:
		return fmt.Errorf("%w: %q is no backend", ErrUnsupported, s.Backend)
	}
	return f.Truncate(s.SizeBytes)
}

// format makes f an empty ext4 file system.
func format(f *os.File, sizeBytes int64) error {
	var id [16]byte
	rand.Read(id[:]) // never fails
	id[6], id[8] = id[6]&0x0f|0x40, id[8]&0x3f|0x80
	// Some room to grow, which costs next to nothing; nobody makes an overlay larger today.
	w, err := ext4.NewWriter(f, ext4.Options{SizeBytes: sizeBytes, MaxBytes: 8 * sizeBytes, Label: "overlay", UUID: id})
	if err == nil {
		_, err = w.Finish()
	}
	if errors.Is(err, ext4.ErrNoSpace) || errors.Is(err, ext4.ErrTooBig) {
		return fmt.Errorf("%w: a file system of %d bytes: %v", ErrSize, sizeBytes, err)
	}
	return err
}
