package ext4

import "encoding/binary"

// Features, by the names that dumpe2fs gives them.
const (
	compatJournal    = 0x4
	compatExtAttr    = 0x8
	compatResize     = 0x10
	compatDirIndex   = 0x20
	incompatFiletype = 0x2
	incompatExtents  = 0x40
	incompat64bit    = 0x80
	incompatFlexBG   = 0x200
	incompatCsumSeed = 0x2000
	roSparseSuper    = 0x1
	roLargeFile      = 0x2
	roHugeFile       = 0x8
	roDirNlink       = 0x20
	roExtraIsize     = 0x40
	roMetadataCsum   = 0x400
)

const superSize = 1024

// super is what varies in a superblock.
type super struct {
	geometry
	freeBlocks uint64
	freeInodes uint32
	uuid       [16]byte
	label      string
	journal    [60]byte // the journal inode's map, kept twice
	group      uint32   // the group that this copy is in
}

// encode writes the superblock to b, which is superSize zeroes.
func (s *super) encode(b []byte) {
	le := binary.LittleEndian
	le.PutUint32(b[0x00:], s.groups*s.inodesInGroup)
	le.PutUint32(b[0x04:], s.blocks)
	le.PutUint32(b[0x0c:], uint32(s.freeBlocks))
	le.PutUint32(b[0x10:], s.freeInodes)
	le.PutUint32(b[0x18:], 2) // block size: 1024<<2
	le.PutUint32(b[0x1c:], 2) // cluster size
	le.PutUint32(b[0x20:], blocksPerGroup)
	le.PutUint32(b[0x24:], blocksPerGroup) // clusters per group
	le.PutUint32(b[0x28:], s.inodesInGroup)
	le.PutUint16(b[0x36:], 0xffff) // no check after so many mounts
	le.PutUint16(b[0x38:], 0xef53)
	le.PutUint16(b[0x3a:], 1) // clean
	le.PutUint16(b[0x3c:], 1) // on errors continue
	le.PutUint32(b[0x4c:], 1) // revision with variable inode size
	le.PutUint32(b[0x54:], inoLostFound)
	le.PutUint16(b[0x58:], inodeSize)
	le.PutUint16(b[0x5a:], uint16(s.group))
	le.PutUint32(b[0x5c:], compatJournal|compatExtAttr|compatResize|compatDirIndex)
	le.PutUint32(b[0x60:], incompatFiletype|incompatExtents|incompat64bit|incompatFlexBG|incompatCsumSeed)
	le.PutUint32(b[0x64:], roSparseSuper|roLargeFile|roHugeFile|roDirNlink|roExtraIsize|roMetadataCsum)
	copy(b[0x68:0x78], s.uuid[:])
	copy(b[0x78:0x88], s.label)
	le.PutUint16(b[0xce:], uint16(s.descBlocks-s.descUsed()))
	le.PutUint32(b[0xe0:], inoJournal)
	for i, word := range hashSeed {
		le.PutUint32(b[0xec+4*i:], word)
	}
	b[0xfc] = hashHalfMD4
	b[0xfd] = 1 // the next field is a copy of the journal inode
	le.PutUint16(b[0xfe:], descSize)
	le.PutUint32(b[0x100:], 0x000c) // default mount options: user_xattr, acl
	copy(b[0x10c:0x148], s.journal[:])
	size := uint64(s.journalBlocks) * blockSize
	le.PutUint32(b[0x148:], uint32(size>>32))
	le.PutUint32(b[0x14c:], uint32(size))
	le.PutUint16(b[0x15c:], extraSize)
	le.PutUint16(b[0x15e:], extraSize)
	le.PutUint32(b[0x160:], flagUnsigned)
	b[0x174] = 4 // log2 of groups in a flex group
	b[0x175] = 1 // checksums are crc32c
	le.PutUint32(b[0x270:], checksumSeed)
	le.PutUint32(b[superSize-4:], checksum(^uint32(0), b[:superSize-4]))
}

// head is the number of blocks of a superblock and the descriptors behind it, in each group
// that has them.
func (g *geometry) head() uint32 { return 1 + g.descBlocks }

// descUsed is the number of blocks of descriptors in use.
func (g *geometry) descUsed() uint32 {
	return uint32(ceilDiv(uint64(g.groups), descsPerBlock))
}
