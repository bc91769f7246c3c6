package vsock

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// maxRegions is what vhost-user allows in one memory table.
const maxRegions = 8

// region is a part of guest memory, mapped here. QEMU names places in it in two ways:
// descriptors hold guest-physical addresses, ring addresses are QEMU's own.
type region struct {
	guest uint64 // guest-physical address
	user  uint64 // QEMU's virtual address
	bytes []byte // the region itself
	whole []byte // the mapping, which begins at offset 0 of the file
}

// memory is the guest's memory. It is immutable; the rings are stopped to replace it.
type memory struct {
	regions []region
}

// errAddress is an address, or a length, outside guest memory.
var errAddress = errors.New("address is outside guest memory")

// mapMemory maps the table of a SET_MEM_TABLE message. The files are not needed afterwards.
func mapMemory(table []byte, files []*os.File) (_ *memory, err error) {
	if len(table) < 8 {
		return nil, errors.New("memory table is too short")
	}
	n := binary.LittleEndian.Uint32(table)
	if n == 0 || n > maxRegions || len(table) != 8+32*int(n) || len(files) != int(n) {
		return nil, fmt.Errorf("memory table of %d regions with %d bytes and %d files", n, len(table), len(files))
	}
	m := &memory{}
	defer func() {
		if err != nil {
			m.unmap()
		}
	}()
	for i, f := range files {
		b := table[8+32*i:]
		le := binary.LittleEndian
		r, err := mapRegion(le.Uint64(b), le.Uint64(b[8:]), le.Uint64(b[16:]), le.Uint64(b[24:]), f)
		if err != nil {
			return nil, fmt.Errorf("map memory region %d: %w", i, err)
		}
		m.regions = append(m.regions, r)
	}
	return m, nil
}

// mapRegion maps one region. A file shorter than its region would be a SIGBUS later.
func mapRegion(guest, length, user, offset uint64, f *os.File) (region, error) {
	const most = 1 << 46
	if length == 0 || length > most || offset > most || guest+length < guest || user+length < user {
		return region{}, errAddress
	}
	if (user|offset)&4095 != 0 { // atomic access relies on it
		return region{}, errors.New("region is not aligned to pages")
	}
	fi, err := f.Stat()
	if err != nil {
		return region{}, err
	}
	if uint64(fi.Size()) < offset+length {
		return region{}, fmt.Errorf("file has %d bytes, %d are needed", fi.Size(), offset+length)
	}
	// From 0, as the offset need not be a multiple of the page size of huge pages.
	whole, err := unix.Mmap(int(f.Fd()), 0, int(offset+length), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return region{}, err
	}
	return region{guest: guest, user: user, bytes: whole[offset:], whole: whole}, nil
}

// unmap gives the memory back. No slice of it may be in use.
func (m *memory) unmap() {
	for _, r := range m.regions {
		_ = unix.Munmap(r.whole) // cannot fail for what Mmap returned
	}
	m.regions = nil
}

// appendGuest appends the n bytes at a guest-physical address to segs, as several
// segments where regions meet.
func (m *memory) appendGuest(segs [][]byte, addr uint64, n uint32) ([][]byte, error) {
	left := uint64(n)
	for left > 0 {
		r := m.find(addr)
		if r == nil {
			return nil, errAddress
		}
		b := r.bytes[addr-r.guest:]
		b = b[:min(uint64(len(b)), left)]
		segs = append(segs, b)
		addr, left = addr+uint64(len(b)), left-uint64(len(b))
	}
	return segs, nil
}

// find returns the region with a guest-physical address.
func (m *memory) find(addr uint64) *region {
	for i := range m.regions {
		r := &m.regions[i]
		if addr >= r.guest && addr-r.guest < uint64(len(r.bytes)) {
			return r
		}
	}
	return nil
}

// user returns the n bytes at one of QEMU's own addresses, which must be in one region.
func (m *memory) user(addr, n uint64) ([]byte, error) {
	for _, r := range m.regions {
		size := uint64(len(r.bytes))
		if addr >= r.user && addr-r.user < size && size-(addr-r.user) >= n {
			return r.bytes[addr-r.user:][:n:n], nil
		}
	}
	return nil, errAddress
}
