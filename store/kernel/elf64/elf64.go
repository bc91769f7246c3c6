// Package elf64 reads the little that banger asks of an ELF file: its header,
// its segments, one section by name, and whether it has a PVH entry.
//
// It is not debug/elf, because that package may panic on hostile input and reads
// tables that nobody asked for. Everything here is bounded, and checked against
// the file's size before it is used.
package elf64

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// Errors of this package, for errors.Is.
var (
	// ErrNotELF means that the file does not start as an ELF file.
	ErrNotELF = errors.New("not an ELF file")
	// ErrMalformed means an ELF file that contradicts itself or is cut off.
	ErrMalformed = errors.New("malformed ELF file")
)

// Types and machines that callers compare with.
const (
	TypeRelocatable = 1
	TypeExecutable  = 2

	MachineX86_64 = 62
)

// Segment types.
const (
	SegmentLoad = 1
	SegmentNote = 4
)

const (
	headerSize  = 64
	segmentSize = 56
	sectionSize = 64

	maxSegments = 64
	maxSections = 1 << 16
	maxNames    = 8 << 20
)

// File is an ELF file whose header has been read. It keeps the reader that it
// was made with and reads from it on demand.
type File struct {
	// Class64 and LittleEndian are false for files that only have their Machine
	// read; nothing else is known of such a file.
	Class64, LittleEndian bool
	Type, Machine         uint16
	Entry                 uint64
	Segments              []Segment

	r    io.ReaderAt
	size uint64
	// shoff, shnum and shstrndx place the section table.
	shoff           uint64
	shnum, shstrndx uint16
}

// Segment is one program header.
type Segment struct {
	Type               uint32
	Offset, FileBytes  uint64
	Physical, MemBytes uint64
	Virtual, Align     uint64
}

// IsELF tells whether a file that starts with head calls itself ELF.
func IsELF(head []byte) bool { return bytes.HasPrefix(head, []byte("\x7fELF")) }

// Open reads the header and the segments of the ELF file of size bytes in r.
func Open(r io.ReaderAt, size int64) (*File, error) {
	head := make([]byte, headerSize)
	n, err := r.ReadAt(head, 0)
	if err != nil && err != io.EOF {
		return nil, fmt.Errorf("read ELF header: %w", err)
	}
	if !IsELF(head[:n]) {
		return nil, ErrNotELF
	}
	if n < headerSize {
		return nil, fmt.Errorf("%w: header is cut off", ErrMalformed)
	}
	f := &File{r: r, size: uint64(size), Class64: head[4] == 2, LittleEndian: head[5] == 1}
	if !f.LittleEndian {
		f.Machine = binary.BigEndian.Uint16(head[18:])
		return f, nil
	}
	le := binary.LittleEndian
	f.Type, f.Machine = le.Uint16(head[16:]), le.Uint16(head[18:])
	if !f.Class64 {
		return f, nil
	}
	f.Entry = le.Uint64(head[24:])
	f.shoff, f.shnum, f.shstrndx = le.Uint64(head[40:]), le.Uint16(head[60:]), le.Uint16(head[62:])
	phoff, phentsize, phnum := le.Uint64(head[32:]), le.Uint16(head[54:]), le.Uint16(head[56:])
	if phnum == 0 {
		return f, nil
	}
	if phentsize != segmentSize || phnum > maxSegments {
		return nil, fmt.Errorf("%w: %d segments of %d bytes", ErrMalformed, phnum, phentsize)
	}
	return f, f.readSegments(phoff, int(phnum))
}

func (f *File) readSegments(offset uint64, count int) error {
	table, err := f.read(offset, uint64(count)*segmentSize, maxSegments*segmentSize)
	if err != nil {
		return fmt.Errorf("read segments: %w", err)
	}
	le := binary.LittleEndian
	for ; len(table) > 0; table = table[segmentSize:] {
		f.Segments = append(f.Segments, Segment{
			Type: le.Uint32(table), Offset: le.Uint64(table[8:]), Virtual: le.Uint64(table[16:]),
			Physical: le.Uint64(table[24:]), FileBytes: le.Uint64(table[32:]),
			MemBytes: le.Uint64(table[40:]), Align: le.Uint64(table[48:]),
		})
	}
	return nil
}

// Section returns the content of the section called name, or nil if there is
// none. A section of more than limit bytes is an error.
func (f *File) Section(name string, limit int64) ([]byte, error) {
	if f.shnum == 0 {
		return nil, nil
	}
	table, err := f.read(f.shoff, uint64(f.shnum)*sectionSize, maxSections*sectionSize)
	if err != nil {
		return nil, fmt.Errorf("read sections: %w", err)
	}
	if f.shstrndx >= f.shnum {
		return nil, fmt.Errorf("%w: no section %d for names", ErrMalformed, f.shstrndx)
	}
	le := binary.LittleEndian
	header := func(i int) []byte { return table[i*sectionSize : (i+1)*sectionSize] }
	content := func(h []byte, limit uint64) ([]byte, error) {
		return f.read(le.Uint64(h[24:]), le.Uint64(h[32:]), limit)
	}
	names, err := content(header(int(f.shstrndx)), maxNames)
	if err != nil {
		return nil, fmt.Errorf("read section names: %w", err)
	}
	for i := range int(f.shnum) {
		h := header(i)
		at := uint64(le.Uint32(h))
		if at >= uint64(len(names)) {
			continue
		}
		if n, _, _ := bytes.Cut(names[at:], []byte{0}); string(n) != name {
			continue
		}
		data, err := content(h, uint64(limit))
		if err != nil {
			return nil, fmt.Errorf("read section %q: %w", name, err)
		}
		return data, nil
	}
	return nil, nil
}

// read returns n bytes at offset, after checking that they are in the file and
// not more than limit.
func (f *File) read(offset, n, limit uint64) ([]byte, error) {
	if n > limit || offset > f.size || n > f.size-offset {
		return nil, fmt.Errorf("%w: %d bytes at %d of %d", ErrMalformed, n, offset, f.size)
	}
	data := make([]byte, n)
	if _, err := f.r.ReadAt(data, int64(offset)); err != nil {
		return nil, err
	}
	return data, nil
}
