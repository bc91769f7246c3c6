// Package cpio reads and writes the "newc" archive format, which initrds and
// the payload of RPM packages use.
//
// Each entry is a header of 110 characters, the name with a final zero, padding
// to four bytes, the data, padding to four bytes. The entry "TRAILER!!!" ends it.
package cpio

import (
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
)

// ErrMalformed means an archive that cannot be read any further.
var ErrMalformed = errors.New("malformed cpio archive")

const (
	headerSize = 110
	trailer    = "TRAILER!!!"
	maxName    = 4096
)

// Mode bits of an entry's type, and their mask.
const (
	ModeType   = 0o170000
	ModeDir    = 0o040000
	ModeFile   = 0o100000
	ModeDevice = 0o020000 // character device
)

// Header is what is read of an entry.
type Header struct {
	Name string
	Mode uint32
	Size int64
}

// Reader reads an archive entry by entry.
type Reader struct {
	r         io.Reader
	remaining int64
	pad       int64
}

// NewReader returns a Reader of r.
func NewReader(r io.Reader) *Reader { return &Reader{r: r} }

// Next goes to the next entry; its data is what Read returns. At the end it
// returns io.EOF.
func (r *Reader) Next() (Header, error) {
	if _, err := io.CopyN(io.Discard, r.r, r.remaining+r.pad); err != nil {
		return Header{}, cutOff(err)
	}
	r.remaining, r.pad = 0, 0
	var raw [headerSize]byte
	if _, err := io.ReadFull(r.r, raw[:]); err != nil {
		return Header{}, cutOff(err)
	}
	if magic := string(raw[:6]); magic != "070701" && magic != "070702" {
		return Header{}, fmt.Errorf("%w: magic %q", ErrMalformed, magic)
	}
	mode, err1 := field(raw, 1)
	size, err2 := field(raw, 6)
	nameLen, err3 := field(raw, 11)
	if err := errors.Join(err1, err2, err3); err != nil {
		return Header{}, err
	}
	if nameLen == 0 || nameLen > maxName {
		return Header{}, fmt.Errorf("%w: name of %d bytes", ErrMalformed, nameLen)
	}
	name := make([]byte, nameLen+padding(headerSize+nameLen))
	if _, err := io.ReadFull(r.r, name); err != nil {
		return Header{}, cutOff(err)
	}
	h := Header{Name: strings.TrimRight(string(name[:nameLen]), "\x00"), Mode: uint32(mode), Size: size}
	if h.Name == trailer {
		return Header{}, io.EOF
	}
	r.remaining, r.pad = size, padding(size)
	return h, nil
}

// Read reads the data of the current entry.
func (r *Reader) Read(p []byte) (int, error) {
	if r.remaining == 0 {
		return 0, io.EOF
	}
	n, err := r.r.Read(p[:min(int64(len(p)), r.remaining)])
	r.remaining -= int64(n)
	if err == io.EOF && r.remaining > 0 {
		return n, cutOff(err)
	}
	return n, err
}

// field returns the i-th of the 13 numbers of a header, eight hexadecimal digits.
func field(raw [headerSize]byte, i int) (int64, error) {
	v, err := strconv.ParseUint(string(raw[6+8*i:14+8*i]), 16, 32)
	if err != nil {
		return 0, fmt.Errorf("%w: number %q", ErrMalformed, raw[6+8*i:14+8*i])
	}
	return int64(v), nil
}

// padding returns how many bytes bring n to a multiple of four.
func padding(n int64) int64 { return -n & 3 }

func cutOff(err error) error {
	if err == io.EOF || err == io.ErrUnexpectedEOF {
		return fmt.Errorf("%w: cut off", ErrMalformed)
	}
	return err
}
