package ext4

import (
	"encoding/binary"
	"math/bits"
)

// Flags of a group descriptor.
const (
	groupNoInodes = 1 // inode bitmap not initialised
	groupNoBlocks = 2 // block bitmap not initialised
	groupZeroed   = 4 // unused part of the inode table is zeroes
)

// group is what a descriptor tells.
type group struct {
	blockBitmap, inodeBitmap, table uint32
	freeBlocks, freeInodes, dirs    uint32
	unused                          uint32 // inodes at the end of the table, never used
	flags                           uint16
	blockSum, inodeSum              uint32
}

// encode writes the descriptor of group nr to b.
func (g *group) encode(b []byte, nr uint32) {
	le := binary.LittleEndian
	le.PutUint32(b[0:], g.blockBitmap)
	le.PutUint32(b[4:], g.inodeBitmap)
	le.PutUint32(b[8:], g.table)
	for _, f := range []struct {
		lo, hi int
		v      uint32
	}{
		{12, 44, g.freeBlocks},
		{14, 46, g.freeInodes},
		{16, 48, g.dirs},
		{24, 56, g.blockSum},
		{26, 58, g.inodeSum},
		{28, 50, g.unused},
	} {
		le.PutUint16(b[f.lo:], uint16(f.v))
		le.PutUint16(b[f.hi:], uint16(f.v>>16))
	}
	le.PutUint16(b[18:], g.flags)
	var n [4]byte
	le.PutUint32(n[:], nr)
	le.PutUint16(b[30:], uint16(checksum(checksum(checksumSeed, n[:]), b[:descSize])))
}

// bitmap is one block of bits.
type bitmap [blockSize]byte

func (m *bitmap) set(from, to uint32) {
	for ; from < to && from%8 != 0; from++ {
		m[from/8] |= 1 << (from % 8)
	}
	for ; from+8 <= to; from += 8 {
		m[from/8] = 0xff
	}
	for ; from < to; from++ {
		m[from/8] |= 1 << (from % 8)
	}
}

func (m *bitmap) unset(from, to uint32) {
	for ; from < to; from++ {
		m[from/8] &^= 1 << (from % 8)
	}
}

// zeroes counts the clear bits below n.
func (m *bitmap) zeroes(n uint32) uint32 {
	ones := uint32(0)
	for i := uint32(0); i < n/8; i++ {
		ones += uint32(bits.OnesCount8(m[i]))
	}
	if n%8 != 0 {
		ones += uint32(bits.OnesCount8(m[n/8] & (1<<(n%8) - 1)))
	}
	return n - ones
}

// blockUse is which blocks are used: all below end but the free ones, and backup heads.
type blockUse struct {
	geometry
	end  uint32
	free []span // sorted
}

// untouched tells whether nothing but a backup head is used in group nr, which is not the last
// one: that may be smaller.
func (u *blockUse) untouched(nr uint32) bool {
	return u.end <= nr*blocksPerGroup && nr != u.groups-1
}

// group fills m for group nr. The groups that are touched must come in ascending order.
func (u *blockUse) group(nr uint32, m *bitmap) {
	*m = bitmap{}
	start := nr * blocksPerGroup
	stop := min(start+blocksPerGroup, u.blocks)
	if u.end > start {
		m.set(0, min(u.end, stop)-start)
		for len(u.free) > 0 && u.free[0].start < stop {
			s := u.free[0]
			from, to := max(s.start, start), min(s.start+s.count, stop)
			m.unset(from-start, to-start)
			if s.start+s.count > stop {
				break
			}
			u.free = u.free[1:]
		}
	}
	if isBackup(nr) {
		m.set(0, u.head())
	}
	m.set(stop-start, blocksPerGroup) // beyond the end
}
