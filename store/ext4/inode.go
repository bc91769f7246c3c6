package ext4

import (
	"encoding/binary"
	"time"
)

// The type bits of a mode, as the kernel has them.
const (
	modeType    = 0o170000
	modeFIFO    = 0o010000
	modeChar    = 0o020000
	modeDir     = 0o040000
	modeBlock   = 0o060000
	modeRegular = 0o100000
	modeSymlink = 0o120000
	modeSocket  = 0o140000
)

const (
	flagIndex   = 0x1000  // hashed directory
	flagExtents = 0x80000 // mapped by extents

	maxLinks    = 65000
	fastSymlink = 60 // a shorter target lies in the inode
	extraSize   = 32 // bytes of the inode after the old 128 that hold nanoseconds and the like
)

// inode is an inode as it is kept until Finish.
type inode struct {
	mode  uint16 // 0: free
	index bool   // hashed directory
	links uint32 // names; of a directory: 2 and its subdirectories
	uid   uint32
	gid   uint32
	size  int64

	mtime    int64 // seconds since 1970
	mtimeNS  uint32
	attrs    uint32 // attributes in the inode, in Writer.inline; 0: none
	attrBlk  uint32 // attributes in a block; 0: none
	dataBlks uint32 // blocks allocated for content and its map

	// first and last mean: of a directory before it is written, its first and last child;
	// of a symbolic link, where the target is in tree.names; of a device, the number as
	// the kernel stores it; of all others (and written directories), their extents.
	first uint32
	last  uint32
}

// stamp is a time as an inode has it.
type stamp struct {
	sec int64
	ns  uint32
}

// The seconds that an image may have, from 1901 to 2310. The format goes on to 2446, but
// e2fsck takes those years for ones before 1970 that an old kernel has written wrongly.
// Others are moved to the nearest.
const (
	minSec = -1 << 31
	maxSec = 3<<32 - 1<<31 - 1
)

func stampOf(t time.Time) stamp {
	switch sec := t.Unix(); {
	case sec < minSec:
		return stamp{minSec, 0}
	case sec > maxSec:
		return stamp{maxSec, 0}
	default:
		return stamp{sec, uint32(t.Nanosecond())}
	}
}

// put writes the low 32 bits of seconds to lo, and the epoch and nanoseconds to extra.
func (s stamp) put(lo, extra []byte) {
	binary.LittleEndian.PutUint32(lo, uint32(s.sec))
	epoch := uint32((s.sec-int64(int32(s.sec)))>>32) & 3
	binary.LittleEndian.PutUint32(extra, s.ns<<2|epoch)
}

// deviceNumber packs major and minor as the kernel does: small ones in the old way, in the
// first word, others in the new way, in the second.
func deviceNumber(major, minor uint32) (old, wide uint32) {
	if major < 256 && minor < 256 {
		return major<<8 | minor, 0
	}
	return 0, minor&0xff | major<<8 | minor&^0xff<<12
}

// rawInode is an inode as it is on disk.
type rawInode struct {
	mode      uint16
	uid, gid  uint32
	size      int64
	links     uint16
	flags     uint32
	sectors   uint64
	block     [60]byte
	attrBlock uint32
	attrs     []byte // the attributes in the inode, at most inlineAttrs bytes
	atime     stamp
	ctime     stamp
	mtime     stamp
}

// encode writes the inode with number ino to b, which is inodeSize zeroes.
func (r *rawInode) encode(b []byte, ino uint32) {
	le := binary.LittleEndian
	le.PutUint16(b[0:], r.mode)
	le.PutUint16(b[2:], uint16(r.uid))
	le.PutUint32(b[4:], uint32(r.size))
	r.atime.put(b[8:], b[140:])
	r.ctime.put(b[12:], b[132:])
	r.mtime.put(b[16:], b[136:])
	le.PutUint16(b[24:], uint16(r.gid))
	le.PutUint16(b[26:], r.links)
	le.PutUint32(b[28:], uint32(r.sectors))
	le.PutUint32(b[32:], r.flags)
	copy(b[40:100], r.block[:])
	le.PutUint32(b[104:], r.attrBlock)
	le.PutUint32(b[108:], uint32(r.size>>32))
	le.PutUint16(b[116:], uint16(r.sectors>>32))
	le.PutUint16(b[120:], uint16(r.uid>>16))
	le.PutUint16(b[122:], uint16(r.gid>>16))
	le.PutUint16(b[128:], extraSize)
	r.mtime.put(b[144:], b[148:]) // creation
	copy(b[128+extraSize:], r.attrs)

	sum := checksum(inodeSeed(ino), b[:inodeSize])
	le.PutUint16(b[124:], uint16(sum))
	le.PutUint16(b[130:], uint16(sum>>16))
}

// inodeSeed starts the checksums of all that belongs to an inode. The generation is always 0.
func inodeSeed(ino uint32) uint32 {
	var b [8]byte
	binary.LittleEndian.PutUint32(b[:], ino)
	return checksum(checksumSeed, b[:])
}
