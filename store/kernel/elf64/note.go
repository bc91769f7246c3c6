package elf64

import "encoding/binary"

// pvhNote is XEN_ELFNOTE_PHYS32_ENTRY: the 32-bit entry by which QEMU (and
// Xen) start an uncompressed kernel without firmware.
const pvhNote = 18

// maxNotes bounds one note segment.
const maxNotes = 1 << 20

// HasPVH tells whether the file has a PVH entry note. A note segment that cannot
// be read counts as none.
func (f *File) HasPVH() bool {
	for _, s := range f.Segments {
		if s.Type != SegmentNote {
			continue
		}
		notes, err := f.read(s.Offset, s.FileBytes, maxNotes)
		if err == nil && hasNote(notes, "Xen", pvhNote) {
			return true
		}
	}
	return false
}

// hasNote walks notes: name size, description size and type, then name and
// description, each padded to four bytes.
func hasNote(notes []byte, name string, kind uint32) bool {
	le := binary.LittleEndian
	for len(notes) >= 12 {
		nameLen, descLen, noteKind := uint64(le.Uint32(notes)), uint64(le.Uint32(notes[4:])), le.Uint32(notes[8:])
		notes = notes[12:]
		namePad, descPad := (nameLen+3)&^3, (descLen+3)&^3
		if namePad+descPad > uint64(len(notes)) {
			return false
		}
		if noteKind == kind && string(notes[:nameLen]) == name+"\x00" {
			return true
		}
		notes = notes[namePad+descPad:]
	}
	return false
}
