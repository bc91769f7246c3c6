package ext4

import "encoding/binary"

// extent says that count blocks of a file, from logical on, lie at start.
type extent struct {
	logical uint32
	start   uint32
	count   uint32
}

const (
	extentMagic     = 0xf30a
	extentHeader    = 12
	extentEntry     = 12
	extentsInInode  = 4
	extentsPerBlock = (blockSize - extentHeader) / extentEntry
	// maxExtent is the longest initialised extent.
	maxExtent = 32768
)

// appendExtent records that the next blocks of an inode's content lie at s.
// All extents of an inode are added before those of another.
func (w *Writer) appendExtent(in *inode, logical uint32, s span) {
	in.dataBlks += s.count
	if in.first != 0 {
		e := w.extents.at(in.last)
		if e.start+e.count == s.start && e.logical+e.count == logical {
			add := min(s.count, maxExtent-e.count)
			e.count += add
			logical, s.start, s.count = logical+add, s.start+add, s.count-add
		}
	}
	for s.count > 0 {
		k := min(s.count, maxExtent)
		in.last = w.extents.add(extent{logical, s.start, k})
		if in.first == 0 {
			in.first = in.last
		}
		logical, s.start, s.count = logical+k, s.start+k, s.count-k
	}
}

// extentRoot builds the map of an inode. Where it does not fit in the inode it
// allocates and writes blocks, counting them in in.dataBlks.
func (w *Writer) extentRoot(in *inode, ino uint32) (root [60]byte, err error) {
	count := uint32(0)
	if in.first != 0 {
		count = in.last - in.first + 1
	}
	leaf := func(p []byte, i uint32) {
		e := w.extents.at(in.first + i)
		binary.LittleEndian.PutUint32(p, e.logical)
		binary.LittleEndian.PutUint16(p[4:], uint16(e.count))
		binary.LittleEndian.PutUint32(p[8:], e.start)
	}
	if count <= extentsInInode {
		putExtents(root[:], count, extentsInInode, 0, 0, leaf)
		return root, nil
	}
	// Level by level upwards: each block is one entry of the level above.
	put, seed := leaf, inodeSeed(ino)
	for depth := uint16(0); ; depth++ {
		var above []extent
		var buf [blockSize]byte
		for i := uint32(0); i < count; i += extentsPerBlock {
			clear(buf[:])
			putExtents(buf[:], min(count-i, extentsPerBlock), extentsPerBlock, depth, i, put)
			binary.LittleEndian.PutUint32(buf[blockSize-4:], checksum(seed, buf[:blockSize-4]))
			s, err := w.alloc.take(1)
			if err != nil {
				return root, err
			}
			if err := w.out.write(s.start, buf[:]); err != nil {
				return root, err
			}
			in.dataBlks++
			above = append(above, extent{logical: binary.LittleEndian.Uint32(buf[extentHeader:]), start: s.start})
		}
		put = func(p []byte, i uint32) {
			binary.LittleEndian.PutUint32(p, above[i].logical)
			binary.LittleEndian.PutUint32(p[4:], above[i].start)
		}
		if count = uint32(len(above)); count <= extentsInInode {
			putExtents(root[:], count, extentsInInode, depth+1, 0, put)
			return root, nil
		}
	}
}

// putExtents fills one node of the extent tree with count entries from number from on.
func putExtents(b []byte, count, capacity uint32, depth uint16, from uint32, put func(p []byte, i uint32)) {
	le := binary.LittleEndian
	le.PutUint16(b, extentMagic)
	le.PutUint16(b[2:], uint16(count))
	le.PutUint16(b[4:], uint16(capacity))
	le.PutUint16(b[6:], depth)
	for i := range count {
		put(b[extentHeader+i*extentEntry:], from+i)
	}
}
