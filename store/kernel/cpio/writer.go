package cpio

import (
	"fmt"
	"io"
	"math"
)

// Writer writes an archive. Equal calls give equal bytes: owners and times are
// zero, inode numbers count up. Errors stick: all calls after one return it.
type Writer struct {
	w   io.Writer
	ino uint32
	err error
}

// NewWriter returns a Writer to w. The caller ends the archive with Close.
func NewWriter(w io.Writer) *Writer { return &Writer{w: w} }

// Dir writes a directory with permission bits perm.
func (w *Writer) Dir(name string, perm uint32) error {
	return w.entry(name, ModeDir|perm, 0, 0, 0, nil)
}

// Device writes a character device node.
func (w *Writer) Device(name string, perm, major, minor uint32) error {
	return w.entry(name, ModeDevice|perm, 0, major, minor, nil)
}

// File writes a regular file of exactly size bytes read from r.
func (w *Writer) File(name string, perm uint32, size int64, r io.Reader) error {
	return w.entry(name, ModeFile|perm, size, 0, 0, r)
}

// Close ends the archive. It does not close the writer below.
func (w *Writer) Close() error {
	w.ino = 0
	return w.header(trailer, 0, 0, 0, 0, 1)
}

func (w *Writer) entry(name string, mode uint32, size int64, major, minor uint32, r io.Reader) error {
	links := uint32(1)
	if mode&ModeType == ModeDir {
		links = 2
	}
	w.ino++
	if err := w.header(name, mode, size, major, minor, links); err != nil || size == 0 {
		return err
	}
	n, err := io.Copy(w.w, io.LimitReader(r, size))
	if err == nil && n < size {
		err = io.ErrUnexpectedEOF
	}
	if err == nil {
		_, err = w.w.Write(make([]byte, padding(size)))
	}
	return w.fail(name, err)
}

func (w *Writer) header(name string, mode uint32, size int64, major, minor, links uint32) error {
	if w.err != nil {
		return w.err
	}
	if size < 0 || size > math.MaxUint32 || len(name)+1 > maxName {
		return w.fail(name, fmt.Errorf("size %d or name does not fit", size))
	}
	nameLen := len(name) + 1
	h := fmt.Appendf(nil, "070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x",
		w.ino, mode, 0, 0, links, 0, size, 0, 0, major, minor, nameLen, 0)
	h = append(h, name...)
	h = append(h, make([]byte, 1+padding(int64(headerSize+nameLen)))...)
	_, err := w.w.Write(h)
	return w.fail(name, err)
}

func (w *Writer) fail(name string, err error) error {
	if err != nil && w.err == nil {
		w.err = fmt.Errorf("write cpio entry %q: %w", name, err)
	}
	return w.err
}
