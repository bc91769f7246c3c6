// Package rpm walks over the files of an RPM package. It reads what it needs to
// find the payload, a compressed cpio archive behind a lead and two headers, and
// neither tags nor signatures.
package rpm

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"

	"banger/store/kernel/cpio"
	"banger/store/kernel/decompress"
)

// ErrMalformed means a package that cannot be read any further.
var ErrMalformed = errors.New("malformed rpm package")

var (
	leadMagic   = []byte{0xed, 0xab, 0xee, 0xdb}
	headerMagic = []byte{0x8e, 0xad, 0xe8}
)

const (
	leadSize   = 96
	entrySize  = 16
	maxEntries = 1 << 20
	maxData    = 256 << 20
	// maxBytes bounds what a package decompresses to; kernels have a tenth of it.
	maxBytes = 8 << 30
)

// IsRPM tells whether a file that starts with head can be an RPM package.
func IsRPM(head []byte) bool { return bytes.HasPrefix(head, leadMagic) }

// Walk calls fn for every regular file of the package in r, in their order, with
// its clean relative name ("lib/modules/6.1/vmlinuz"), size and content. fn need not
// read the content. An error of fn ends the walk and is returned.
func Walk(r io.Reader, fn func(name string, size int64, content io.Reader) error) error {
	lead := make([]byte, leadSize)
	if _, err := io.ReadFull(r, lead); err != nil {
		return cutOff(err, "its lead")
	}
	if !IsRPM(lead) {
		return fmt.Errorf("%w: no lead", ErrMalformed)
	}
	// The first header, the signature, is padded to eight bytes; the second is not.
	n, err := skipHeader(r)
	if err != nil {
		return err
	}
	if _, err := io.CopyN(io.Discard, r, -n&7); err != nil {
		return cutOff(err, "its signature")
	}
	if _, err := skipHeader(r); err != nil {
		return err
	}
	zr, _, err := decompress.NewReader(r)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	defer zr.Close()
	archive := cpio.NewReader(decompress.Limit(zr, maxBytes))
	for {
		h, err := archive.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return fmt.Errorf("%w: %w", ErrMalformed, err)
		}
		if h.Mode&cpio.ModeType != cpio.ModeFile {
			continue
		}
		if err := fn(strings.TrimPrefix(path.Clean("/"+h.Name), "/"), h.Size, archive); err != nil {
			return err
		}
	}
}

// skipHeader skips one header and returns its length: magic and version (4),
// reserved (4), number of entries (4), bytes of data (4), entries, data.
func skipHeader(r io.Reader) (int64, error) {
	var h [16]byte
	if _, err := io.ReadFull(r, h[:]); err != nil {
		return 0, cutOff(err, "a header")
	}
	if !bytes.HasPrefix(h[:], headerMagic) {
		return 0, fmt.Errorf("%w: no header", ErrMalformed)
	}
	entries, data := binary.BigEndian.Uint32(h[8:]), binary.BigEndian.Uint32(h[12:])
	if entries > maxEntries || data > maxData {
		return 0, fmt.Errorf("%w: header of %d entries and %d bytes", ErrMalformed, entries, data)
	}
	n := int64(entries)*entrySize + int64(data)
	if _, err := io.CopyN(io.Discard, r, n); err != nil {
		return 0, cutOff(err, "a header")
	}
	return n + int64(len(h)), nil
}

// cutOff tells an end of the file in the middle of what from other errors.
func cutOff(err error, what string) error {
	if err == io.EOF || err == io.ErrUnexpectedEOF {
		return fmt.Errorf("%w: cut off in %s", ErrMalformed, what)
	}
	return err
}
