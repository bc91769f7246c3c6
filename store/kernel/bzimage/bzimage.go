// Package bzimage reads Linux x86 boot images: the header that boot loaders
// read (Documentation/arch/x86/boot.rst of the kernel) and the compressed ELF
// kernel inside.
//
//	0x000            0x1f1        (setup_sects+1)*512     payload_offset
//	| real-mode code | header ... | protected-mode code ... | payload | ... |
//	                   HdrS at 0x202                         ELF, compressed,
//	                                                         then its size, 4 bytes
package bzimage

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"banger/store/kernel/decompress"
)

// Errors of this package, for errors.Is.
var (
	// ErrNotBzImage means that the boot protocol's magic is missing.
	ErrNotBzImage = errors.New("not a bzImage")
	// ErrMalformed means an image that contradicts itself or is cut off.
	ErrMalformed = errors.New("malformed bzImage")
	// ErrNot64Bit means a kernel for 32-bit x86.
	ErrNot64Bit = errors.New("not a 64-bit kernel")
)

// Offsets in the file, as boot.rst names them.
const (
	setupSectsAt    = 0x1f1
	magicAt         = 0x202
	protocolAt      = 0x206
	versionAt       = 0x20e
	loadFlagsAt     = 0x236
	payloadOffsetAt = 0x248
	payloadLengthAt = 0x24c

	// headerEnd is where what we read ends.
	headerEnd = 0x250
)

const (
	// minProtocol is 2.12 (Linux 3.8), the first with xloadflags; payload_offset
	// came in 2.08.
	minProtocol = 0x020c
	// flag64 is XLF_KERNEL_64.
	flag64 = 1
	// maxVersion bounds the version string.
	maxVersion = 512
	// maxKernelBytes bounds the decompressed kernel.
	maxKernelBytes = 1 << 30
)

// Image is a boot image whose header has been read. It keeps its reader.
type Image struct {
	// Version is the kernel's version string, as uname -r, build host and
	// uname -v together: "6.1.0-13-amd64 (debian-kernel@...) #1 SMP ...".
	Version string

	r              io.ReaderAt
	offset, length int64
}

// IsBzImage tells whether a file that starts with head is a boot image.
func IsBzImage(head []byte) bool {
	return len(head) >= magicAt+4 && string(head[magicAt:magicAt+4]) == "HdrS"
}

// Open reads the header of the boot image of size bytes in r.
func Open(r io.ReaderAt, size int64) (*Image, error) {
	head := make([]byte, headerEnd)
	n, err := r.ReadAt(head, 0)
	if err != nil && err != io.EOF {
		return nil, fmt.Errorf("read bzImage header: %w", err)
	}
	if !IsBzImage(head[:n]) {
		return nil, ErrNotBzImage
	}
	if n < headerEnd {
		return nil, fmt.Errorf("%w: header is cut off", ErrMalformed)
	}
	le := binary.LittleEndian
	if p := le.Uint16(head[protocolAt:]); p < minProtocol {
		return nil, fmt.Errorf("%w: boot protocol %d.%02d is too old", ErrMalformed, p>>8, p&0xff)
	}
	if le.Uint16(head[loadFlagsAt:])&flag64 == 0 {
		return nil, ErrNot64Bit
	}
	sects := int64(head[setupSectsAt])
	if sects == 0 {
		sects = 4
	}
	im := &Image{
		r:      r,
		offset: (sects+1)*512 + int64(le.Uint32(head[payloadOffsetAt:])),
		length: int64(le.Uint32(head[payloadLengthAt:])),
	}
	if im.length < 8 || im.offset > size || im.length > size-im.offset {
		return nil, fmt.Errorf("%w: kernel of %d bytes at %d, but the file has %d (cut off?)",
			ErrMalformed, im.length, im.offset, size)
	}
	if im.Version, err = im.readVersion(int64(le.Uint16(head[versionAt:]))); err != nil {
		return nil, err
	}
	return im, nil
}

// readVersion reads the string at pointer, which counts from the end of the
// first sector; zero means that there is none.
func (im *Image) readVersion(pointer int64) (string, error) {
	if pointer == 0 {
		return "", nil
	}
	buf := make([]byte, maxVersion)
	n, err := im.r.ReadAt(buf, pointer+0x200)
	if err != nil && err != io.EOF {
		return "", fmt.Errorf("read kernel version: %w", err)
	}
	text, _, ended := bytes.Cut(buf[:n], []byte{0})
	if !ended {
		return "", fmt.Errorf("%w: version string has no end", ErrMalformed)
	}
	for _, c := range text {
		if c < ' ' || c > '~' {
			return "", fmt.Errorf("%w: version string %q", ErrMalformed, text)
		}
	}
	return string(text), nil
}

// Extract writes the decompressed kernel to w and returns its size and how it
// was compressed. What comes out is what was packed: the caller checks that it
// is an ELF file.
func (im *Image) Extract(ctx context.Context, w io.Writer) (int64, decompress.Format, error) {
	var tail [4]byte
	if _, err := im.r.ReadAt(tail[:], im.offset+im.length-4); err != nil {
		return 0, decompress.None, fmt.Errorf("read kernel size: %w", err)
	}
	var head [8]byte
	if _, err := im.r.ReadAt(head[:], im.offset); err != nil {
		return 0, decompress.None, fmt.Errorf("read kernel: %w", err)
	}
	format := decompress.Detect(head[:])
	want, packed := int64(binary.LittleEndian.Uint32(tail[:])), im.length
	switch format {
	case decompress.None:
		// Uncompressed (CONFIG_KERNEL_UNCOMPRESSED): the payload is the kernel.
		want = im.length
	case decompress.Gzip:
		// The four bytes are the end of the gzip stream itself.
	default:
		// The kernel's build appends them; to the decoder they would be rubbish.
		packed -= 4
	}
	if want > maxKernelBytes {
		return 0, format, fmt.Errorf("%w: kernel of %d bytes", ErrMalformed, want)
	}
	zr, _, err := decompress.NewReader(decompress.WithContext(ctx, io.NewSectionReader(im.r, im.offset, packed)))
	if err != nil {
		return 0, format, fmt.Errorf("open kernel: %w", err)
	}
	defer zr.Close()
	n, err := decompress.Copy(w, zr, want)
	if err != nil {
		return n, format, fmt.Errorf("decompress kernel (%s): %w", format, err)
	}
	if n != want {
		return n, format, fmt.Errorf("%w: kernel has %d bytes instead of %d", ErrMalformed, n, want)
	}
	return n, format, nil
}
