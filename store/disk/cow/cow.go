// Package cow knows the file of a disk that is a snapshot of an image: how large
// it must be for dm-snapshot never to run out of room in it, and how to tell
// whether it is still whole. It needs no right for that.
//
//	0                        StoreBytes                 FileBytes
//	+--------+---------+-----+--------------------------+
//	| header | exception store: | what the disk has      |
//	|        | changed chunks   | beyond the image       |
//	+--------+---------+-----+--------------------------+
//	  allocated as a whole     holes, as in a file of any VM
//
// The disk is the image, as far as it goes, with the store over it, and then the
// tail, which needs no store: there is nothing below it.
package cow

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// ErrBroken means that the kernel has given a snapshot up: a write to its store
// had failed, and what is on it is lost.
var ErrBroken = errors.New("the snapshot is broken")

// What is copied at once when the guest writes.
const (
	ChunkSectors = 8
	ChunkBytes   = ChunkSectors * 512
)

// perArea is how many exceptions are described in one chunk of metadata, with
// 16 bytes each; that many chunks of data follow it.
const perArea = ChunkBytes / 16

// StoreBytes is the size of an exception store that holds every chunk of an
// image of originBytes, which is a multiple of ChunkBytes.
//
// The kernel wants, from drivers/md/dm-snap-persistent.c: one chunk of header; a
// chunk of metadata before each area; and, as soon as an area is full, the next one's
// metadata too, though nothing will ever be in it. One chunk less, and the write
// that fills the last area breaks the snapshot.
func StoreBytes(originBytes int64) int64 {
	chunks := originBytes / ChunkBytes
	const header, first = 1, 1
	return (header + first + chunks + chunks/perArea) * ChunkBytes
}

// Layout says what is where in the file and on the disk.
type Layout struct {
	OriginBytes int64 // of the image, and of the disk's first part
	StoreBytes  int64 // of the store, from the beginning of the file
	TailBytes   int64 // of what follows it, and of the disk's second part
}

// Plan returns the layout of a file of fileBytes over an image of originBytes. A
// file that is too small for its image is an error.
func Plan(originBytes, fileBytes int64) (Layout, error) {
	if originBytes <= 0 || originBytes > maxBytes || originBytes%ChunkBytes != 0 {
		return Layout{}, fmt.Errorf("plan snapshot: image of %d bytes, want a multiple of %d", originBytes, ChunkBytes)
	}
	l := Layout{OriginBytes: originBytes, StoreBytes: StoreBytes(originBytes)}
	l.TailBytes = fileBytes - l.StoreBytes
	if l.TailBytes < 0 || fileBytes > maxBytes || l.TailBytes%ChunkBytes != 0 {
		return Layout{}, fmt.Errorf("plan snapshot: file of %d bytes, want %d and a multiple of %d more", fileBytes, l.StoreBytes, ChunkBytes)
	}
	return l, nil
}

// maxBytes is more than any file system has for a file, and far from where sums
// overflow.
const maxBytes = 1 << 56

// DiskBytes is the size of the disk.
func (l Layout) DiskBytes() int64 { return l.OriginBytes + l.TailBytes }

// FileBytes is the size of the file.
func (l Layout) FileBytes() int64 { return l.StoreBytes + l.TailBytes }

// The header of a store, little endian: magic, valid, version, sectors to a chunk.
const (
	headerBytes = 16
	magic       = 0x70416e53 // "SnAp"
	version     = 1
)

// Check reads the header of the file r: nil means that the store is new, or whole
// as far as the kernel knows. It may be asked at any time, also while a VM runs:
// the kernel writes into the header that it gives up, before it says so to the guest.
func Check(r io.ReaderAt) error {
	var b [headerBytes]byte
	if _, err := r.ReadAt(b[:], 0); err != nil {
		return fmt.Errorf("read header of snapshot: %w", err)
	}
	word := func(i int) uint32 { return binary.LittleEndian.Uint32(b[4*i:]) }
	switch {
	case word(0) == 0:
		return nil // the kernel has not seen it yet
	case word(0) != magic || word(2) != version:
		return fmt.Errorf("read header of snapshot: %w: it is not one", ErrBroken)
	case word(1) == 0:
		return fmt.Errorf("read header of snapshot: %w: a write had failed", ErrBroken)
	case word(3) != ChunkSectors:
		return fmt.Errorf("read header of snapshot: %w: chunks of %d sectors, want %d", ErrBroken, word(3), ChunkSectors)
	}
	return nil
}
