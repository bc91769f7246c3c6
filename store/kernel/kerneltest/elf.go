// Package kerneltest makes small files that look like kernels, modules and kernel
// packages, for tests. Nothing here can boot.
package kerneltest

import (
	"bytes"
	"encoding/binary"
	"strings"
)

// Machine is x86-64's number in ELF files.
const Machine = 62

// Module returns a kernel module whose .modinfo section has the given lines, such
// as "depends=virtio,virtio_ring".
func Module(info ...string) []byte {
	modinfo := []byte(strings.Join(info, "\x00") + "\x00")
	names := []byte("\x00.modinfo\x00.shstrtab\x00")
	const start = 64
	var out bytes.Buffer
	sections := uint64(start + len(modinfo) + len(names))
	header(&out, ident{kind: 1, machine: Machine, shoff: sections, shnum: 3, shstrndx: 2})
	out.Write(modinfo)
	out.Write(names)
	section(&out, 0, 0, 0)
	section(&out, 1, start, uint64(len(modinfo)))
	section(&out, 10, start+uint64(len(modinfo)), uint64(len(names)))
	return out.Bytes()
}

// Vmlinux returns an uncompressed kernel for machine that carries a banner, and a
// PVH note if pvh is true. extra is put behind the banner.
func Vmlinux(machine uint16, version string, pvh bool, extra []byte) []byte {
	text := append([]byte("Linux version %s\n\x00Linux version "+version+"\n\x00"), extra...)
	kind := uint32(1)
	if pvh {
		kind = 18
	}
	note := binary.LittleEndian.AppendUint32(nil, 4)
	note = binary.LittleEndian.AppendUint32(note, 4)
	note = binary.LittleEndian.AppendUint32(note, kind)
	note = append(note, "Xen\x00\x00\x00\x00\x01"...)
	const start, load = 64 + 2*56, 0x1000000
	var out bytes.Buffer
	header(&out, ident{kind: 2, machine: machine, entry: load, phnum: 2})
	segment(&out, 1, start, load, uint64(len(text)), uint64(len(text))+4096)
	segment(&out, 4, start+uint64(len(text)), load, uint64(len(note)), uint64(len(note)))
	out.Write(text)
	out.Write(note)
	return out.Bytes()
}

type ident struct {
	kind, machine          uint16
	entry, shoff           uint64
	phnum, shnum, shstrndx uint16
}

func header(out *bytes.Buffer, i ident) {
	out.WriteString("\x7fELF\x02\x01\x01" + strings.Repeat("\x00", 9))
	put(out, i.kind, i.machine, uint32(1), i.entry, uint64(64), i.shoff, uint32(0),
		uint16(64), uint16(56), i.phnum, uint16(64), i.shnum, i.shstrndx)
}

func section(out *bytes.Buffer, name uint32, offset, size uint64) {
	put(out, name, uint32(1), uint64(0), uint64(0), offset, size, uint64(0), uint64(1), uint64(0))
}

func segment(out *bytes.Buffer, kind uint32, offset, physical, file, memory uint64) {
	put(out, kind, uint32(5), offset, physical|0xffffffff80000000, physical, file, memory, uint64(4096))
}

// put writes numbers, little endian. Writing to a bytes.Buffer cannot fail.
func put(out *bytes.Buffer, numbers ...any) {
	for _, n := range numbers {
		binary.Write(out, binary.LittleEndian, n)
	}
}
