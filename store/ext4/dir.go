package ext4

import (
	"encoding/binary"
	"slices"
)

const (
	entryHeader = 8  // bytes of a directory entry before its name
	leafTail    = 12 // an entry of its own that hides the checksum
	leafRoom    = blockSize - leafTail
	// leafFill is where a leaf of a hashed directory is left, so that names can be
	// added later without splitting every leaf.
	leafFill = leafRoom * 4 / 5

	rootLimit  = (blockSize-32)/8 - 1
	indexLimit = (blockSize-8)/8 - 1
)

// entryTypes are the types as a directory entry has them.
var entryTypes = map[uint16]byte{
	modeRegular: 1, modeDir: 2, modeChar: 3, modeBlock: 4, modeFIFO: 5, modeSocket: 6, modeSymlink: 7,
}

// dirBlock is a block of entries that is being filled.
type dirBlock struct {
	b    [blockSize]byte
	used int
	last int // the entry that was put last
}

func entrySize(n int) int { return (entryHeader + n + 3) &^ 3 }

func (d *dirBlock) put(name []byte, ino uint32, typ byte) {
	p := d.b[d.used:]
	binary.LittleEndian.PutUint32(p, ino)
	binary.LittleEndian.PutUint16(p[4:], uint16(entrySize(len(name))))
	p[6], p[7] = byte(len(name)), typ
	copy(p[entryHeader:], name)
	d.last, d.used = d.used, d.used+entrySize(len(name))
}

// seal gives the last entry the rest of the block, and adds the checksum.
func (d *dirBlock) seal(seed uint32) []byte {
	binary.LittleEndian.PutUint16(d.b[d.last+4:], uint16(leafRoom-d.last))
	tail := d.b[leafRoom:]
	binary.LittleEndian.PutUint16(tail[4:], leafTail)
	tail[7] = 0xde
	binary.LittleEndian.PutUint32(tail[8:], checksum(seed, d.b[:leafRoom]))
	return d.b[:]
}

// writeDirs writes all directories. Afterwards first and last of their inodes are extents.
func (w *Writer) writeDirs() error {
	for n := uint32(rootNode); n < w.tree.nodes.n; n++ {
		nd := w.tree.nodes.at(n)
		if nd.inode == 0 || w.tree.inodes.at(nd.inode).mode&modeType != modeDir {
			continue
		}
		if err := w.writeDir(n); err != nil {
			return err
		}
	}
	return nil
}

func (w *Writer) writeDir(n uint32) error {
	nd := w.tree.nodes.at(n)
	in := w.tree.inodes.at(nd.inode)
	children, size := in.first, entrySize(1)+entrySize(2)
	count := 0
	for c := children; c != 0; c = w.tree.nodes.at(c).next {
		size += entrySize(int(w.tree.nodes.at(c).len))
		count++
	}
	dir := dirWriter{w: w, in: in, seed: inodeSeed(nd.inode), self: nd.inode, parent: w.tree.nodes.at(nd.parent).inode}
	in.first, in.last = 0, 0
	slots := 1
	if nd.inode == inoLostFound {
		slots = 4 // e2fsck must be able to add names without allocating
	}
	if size <= leafRoom {
		return dir.linear(children, slots)
	}
	in.index = true
	return dir.hashed(children, count)
}

// dirWriter writes one directory.
type dirWriter struct {
	w      *Writer
	in     *inode
	seed   uint32
	self   uint32
	parent uint32
}

// linear writes a directory whose entries fit in one block, and empty blocks up to slots.
func (d *dirWriter) linear(child uint32, slots int) error {
	var b dirBlock
	b.put([]byte("."), d.self, 2)
	b.put([]byte(".."), d.parent, 2)
	for ; child != 0; child = d.w.tree.nodes.at(child).next {
		d.putChild(&b, child)
	}
	for {
		if err := d.append(b.seal(d.seed)); err != nil {
			return err
		}
		if slots--; slots == 0 {
			return nil
		}
		b = dirBlock{}
	}
}

func (d *dirWriter) putChild(b *dirBlock, n uint32) {
	nd := d.w.tree.nodes.at(n)
	b.put(d.w.tree.nameOf(n), nd.inode, entryTypes[d.w.tree.inodes.at(nd.inode).mode&modeType])
}

// append writes the next block of the directory.
func (d *dirWriter) append(p []byte) error {
	s, err := d.w.alloc.take(1)
	if err != nil {
		return err
	}
	d.w.appendExtent(d.in, uint32(d.in.size/blockSize), s)
	d.in.size += blockSize
	return d.w.out.write(s.start, p)
}

// hashedName is a child with its place in the order of a hashed directory.
type hashedName struct {
	hash, minor uint32
	node        uint32
}

// indexEntry says that the names from hash on are below block.
type indexEntry struct {
	hash, block uint32
}

// hashed writes an indexed directory: block 0 is the root of the index, then come the
// leaves, then, if the root cannot name all leaves, the nodes between.
func (d *dirWriter) hashed(child uint32, count int) error {
	names := make([]hashedName, 0, count)
	for ; child != 0; child = d.w.tree.nodes.at(child).next {
		h, m := dirHash(d.w.tree.nameOf(child))
		names = append(names, hashedName{h, m, child})
	}
	slices.SortFunc(names, func(a, b hashedName) int {
		switch {
		case a.hash != b.hash:
			return int(int64(a.hash) - int64(b.hash))
		case a.minor != b.minor:
			return int(int64(a.minor) - int64(b.minor))
		}
		return int(int64(a.node) - int64(b.node))
	})
	// The root names blocks that do not exist yet: keep its place.
	root, err := d.w.alloc.take(1)
	if err != nil {
		return err
	}
	d.w.appendExtent(d.in, 0, root)
	d.in.size = blockSize

	leaves, err := d.leaves(names)
	if err != nil {
		return err
	}
	levels := byte(0)
	if len(leaves) > rootLimit {
		levels = 1
		if leaves, err = d.nodes(leaves); err != nil {
			return err
		}
	}
	if len(leaves) > rootLimit {
		return ErrTooBig
	}
	var b [blockSize]byte
	le := binary.LittleEndian
	le.PutUint32(b[0:], d.self)
	le.PutUint16(b[4:], 12)
	b[6], b[7], b[8] = 1, 2, '.'
	le.PutUint32(b[12:], d.parent)
	le.PutUint16(b[16:], blockSize-12)
	b[18], b[19], b[20], b[21] = 2, 2, '.', '.'
	b[28], b[29], b[30] = hashHalfMD4, 8, levels
	putIndex(b[:], 32, rootLimit, leaves, d.seed)
	return d.w.out.write(root.start, b[:])
}

// leaves writes the blocks of names.
func (d *dirWriter) leaves(names []hashedName) ([]indexEntry, error) {
	var index []indexEntry
	var b dirBlock
	first := uint32(0) // hash of the first name in b
	flush := func() error {
		index = append(index, indexEntry{first, uint32(d.in.size / blockSize)})
		err := d.append(b.seal(d.seed))
		b = dirBlock{}
		return err
	}
	for i, n := range names {
		size := entrySize(int(d.w.tree.nodes.at(n.node).len))
		if b.used > 0 && b.used+size > leafFill {
			if err := flush(); err != nil {
				return nil, err
			}
			first = n.hash
			if names[i-1].hash == n.hash {
				first |= 1 // goes on from the leaf before
			}
		}
		d.putChild(&b, n.node)
	}
	return index, flush()
}

// nodes writes index blocks over leaves.
func (d *dirWriter) nodes(leaves []indexEntry) ([]indexEntry, error) {
	var index []indexEntry
	for part := range slices.Chunk(leaves, indexLimit) {
		var b [blockSize]byte
		binary.LittleEndian.PutUint16(b[4:], blockSize) // an empty entry over all
		putIndex(b[:], 8, indexLimit, part, d.seed)
		index = append(index, indexEntry{part[0].hash, uint32(d.in.size / blockSize)})
		if err := d.append(b[:]); err != nil {
			return nil, err
		}
	}
	return index, nil
}

// putIndex writes an index to b from at on. The first entry has no hash: limit and count
// of the index take its place.
func putIndex(b []byte, at, limit int, list []indexEntry, seed uint32) {
	le := binary.LittleEndian
	for i, e := range list {
		le.PutUint32(b[at+8*i:], e.hash)
		le.PutUint32(b[at+8*i+4:], e.block)
	}
	le.PutUint16(b[at:], uint16(limit))
	le.PutUint16(b[at+2:], uint16(len(list)))
	tail := b[at+8*limit:]
	sum := checksum(seed, b[:at+8*len(list)])
	sum = checksum(sum, tail[:4])
	le.PutUint32(tail[4:], checksum(sum, make([]byte, 4)))
}
