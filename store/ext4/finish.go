package ext4

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"hash"
)

// Stats tells what Finish has made.
type Stats struct {
	// SizeBytes is the size of the file system and of the file.
	SizeBytes int64
	// FreeBytes of it are free.
	FreeBytes int64
	// Inodes are in use, those of the file system itself included.
	Inodes int64
	// UUID of the file system.
	UUID [16]byte
}

// SetUUID overrides Options.UUID, for a UUID that follows from the content and is known
// only at its end.
func (w *Writer) SetUUID(u [16]byte) { w.opts.UUID = u }

// Finish completes the image. It does not sync the file, which stays the caller's.
func (w *Writer) Finish() (Stats, error) {
	stats, err := w.finish()
	if err != nil {
		err = fmt.Errorf("finish file system: %w", err)
	}
	w.out.stop()
	return stats, err
}

func (w *Writer) finish() (stats Stats, err error) {
	if err := w.close(); err != nil {
		return stats, err
	}
	if err := w.writeDirs(); err != nil {
		return stats, err
	}
	if err := w.writeMaps(); err != nil {
		return stats, err
	}
	w.free.merge()
	if err := w.out.flush(); err != nil {
		return stats, err
	}
	for _, s := range w.free.spans {
		if err := w.out.clear(s); err != nil {
			return stats, err
		}
	}
	g, p, err := fit(&w.alloc, w.opts, w.tree.inodes.n)
	if err != nil {
		return stats, err
	}
	if err := w.file.Truncate(int64(g.blocks) * blockSize); err != nil {
		return stats, err
	}
	if err := w.writeJournal(p.journal, g.journalBlocks); err != nil {
		return stats, err
	}
	resize, err := w.writeResize(g, p.resize)
	if err != nil {
		return stats, err
	}
	sum := sha256.New()
	used, err := w.writeInodes(g, p, &resize, sum)
	if err != nil {
		return stats, err
	}
	for _, gap := range p.gaps {
		w.free.add(gap)
	}
	w.free.merge()
	groups, err := w.writeBitmaps(g, p, used)
	if err != nil {
		return stats, err
	}
	s := super{geometry: g, uuid: w.opts.UUID, label: w.opts.Label}
	if s.uuid == ([16]byte{}) {
		s.uuid = uuidFrom(sum)
	}
	if s.journal, err = w.extentRoot(w.tree.inodes.at(inoJournal), inoJournal); err != nil {
		return stats, err
	}
	for i := range groups {
		s.freeBlocks += uint64(groups[i].freeBlocks)
		s.freeInodes += groups[i].freeInodes
	}
	if err := w.writeHeads(s, groups); err != nil {
		return stats, err
	}
	return Stats{
		SizeBytes: int64(g.blocks) * blockSize,
		FreeBytes: int64(s.freeBlocks) * blockSize,
		Inodes:    int64(g.groups*g.inodesInGroup - s.freeInodes),
		UUID:      s.uuid,
	}, w.out.flush()
}

// uuidFrom makes a UUID of version 8 from a hash.
func uuidFrom(h hash.Hash) (u [16]byte) {
	copy(u[:], h.Sum(nil))
	u[6] = u[6]&0x0f | 0x80
	u[8] = u[8]&0x3f | 0x80
	return u
}

// writeMaps writes the blocks of all maps that do not fit into their inodes. It must
// come before the geometry is settled, as it allocates.
func (w *Writer) writeMaps() error {
	for ino := uint32(inoRoot); ino < w.tree.inodes.n; ino++ {
		in := w.tree.inodes.at(ino)
		if t := in.mode & modeType; t != modeRegular && t != modeDir {
			continue
		}
		if in.first == 0 || in.last-in.first < extentsInInode {
			continue
		}
		root, err := w.extentRoot(in, ino)
		if err != nil {
			return err
		}
		w.maps[ino] = root
	}
	return nil
}

// inodeUse is what the inodes of one group come to.
type inodeUse struct {
	bits bitmap
	dirs uint32
	top  uint32 // inodes up to the last one in use
}

// writeInodes writes the inode tables and returns the use of the groups that have any.
func (w *Writer) writeInodes(g geometry, p places, resize *rawInode, sum hash.Hash) ([]inodeUse, error) {
	use := make([]inodeUse, 0, ceilDiv(uint64(w.tree.inodes.n), uint64(g.inodesInGroup)))
	buf := make([]byte, 0, 64<<10)
	for first := uint32(1); first < w.tree.inodes.n; first += g.inodesInGroup {
		var u inodeUse
		end := min(first+g.inodesInGroup, w.tree.inodes.n)
		at := int64(p.tables[len(use)]) * blockSize
		for ino := first; ino < end; ino++ {
			var b [inodeSize]byte
			in := w.tree.inodes.at(ino)
			if ino == inoResize {
				resize.encode(b[:], ino)
			} else if in.mode != 0 {
				if err := w.encodeInode(b[:], in, ino); err != nil {
					return nil, err
				}
			}
			if in.mode != 0 || ino < inoLostFound {
				i := ino - first
				u.bits.set(i, i+1)
				u.top = i + 1
				if in.mode&modeType == modeDir {
					u.dirs++
				}
			}
			buf = append(buf, b[:]...)
			if len(buf) == cap(buf) || ino == end-1 {
				sum.Write(buf)
				if err := w.out.writeAt(at, buf); err != nil {
					return nil, err
				}
				at, buf = at+int64(len(buf)), buf[:0]
			}
		}
		use = append(use, u)
	}
	return use, nil
}

// encodeInode writes inode number ino to b.
func (w *Writer) encodeInode(b []byte, in *inode, ino uint32) error {
	m := stamp{in.mtime, in.mtimeNS}
	r := rawInode{
		mode: in.mode, uid: in.uid, gid: in.gid, size: in.size, links: uint16(in.links),
		atime: m, ctime: m, mtime: m, attrBlock: in.attrBlk,
	}
	if t, ok := w.times[ino]; ok {
		r.atime, r.ctime = t[0], t[1]
	}
	if in.attrs != 0 {
		r.attrs = w.inline.at(in.attrs)
	}
	if in.mode&modeType == modeDir && in.links > maxLinks {
		r.links = 1 // more than can be told (dir_nlink)
	}
	if in.index {
		r.flags = flagIndex
	}
	blocks := in.dataBlks
	switch in.mode & modeType {
	case modeRegular, modeDir:
		r.flags |= flagExtents
		root, ok := w.maps[ino]
		if !ok {
			var err error
			if root, err = w.extentRoot(in, ino); err != nil {
				return err
			}
		}
		r.block = root
	case modeSymlink:
		target := w.tree.names.at(in.first, int(in.size))
		if in.size < fastSymlink {
			copy(r.block[:], target)
			break
		}
		r.flags |= flagExtents
		putExtents(r.block[:], 1, extentsInInode, 0, 0, func(p []byte, _ uint32) {
			binary.LittleEndian.PutUint16(p[4:], 1)
			binary.LittleEndian.PutUint32(p[8:], in.last)
		})
	case modeChar, modeBlock:
		binary.LittleEndian.PutUint32(r.block[0:], in.first)
		binary.LittleEndian.PutUint32(r.block[4:], in.last)
	}
	if in.attrBlk != 0 {
		blocks++
	}
	r.sectors = uint64(blocks) * (blockSize / 512)
	r.encode(b, ino)
	return nil
}

// writeBitmaps writes the bitmaps of all groups that are in use and returns all descriptors.
func (w *Writer) writeBitmaps(g geometry, p places, used []inodeUse) ([]group, error) {
	groups := make([]group, g.groups)
	blocks := blockUse{geometry: g, end: w.alloc.next, free: w.free.spans}
	var m bitmap
	for nr := range groups {
		d := &groups[nr]
		*d = group{
			blockBitmap: p.bitmap(uint32(nr)),
			inodeBitmap: p.bitmap(g.groups + uint32(nr)),
			table:       p.tables[nr],
			freeInodes:  g.inodesInGroup,
			unused:      g.inodesInGroup,
			flags:       groupZeroed,
		}
		if blocks.untouched(uint32(nr)) {
			d.flags |= groupNoBlocks
			d.freeBlocks = blocksPerGroup
			if isBackup(uint32(nr)) {
				d.freeBlocks -= g.head()
			}
		} else {
			blocks.group(uint32(nr), &m)
			d.freeBlocks = m.zeroes(blocksPerGroup)
			d.blockSum = checksum(checksumSeed, m[:])
			if err := w.out.write(d.blockBitmap, m[:]); err != nil {
				return nil, err
			}
		}
		if nr >= len(used) {
			d.flags |= groupNoInodes
			continue
		}
		u := &used[nr]
		u.bits.set(g.inodesInGroup, maxInodeGroup)
		d.freeInodes = u.bits.zeroes(g.inodesInGroup)
		d.unused = g.inodesInGroup - u.top
		d.dirs = u.dirs
		d.inodeSum = checksum(checksumSeed, u.bits[:g.inodesInGroup/8])
		if err := w.out.write(d.inodeBitmap, u.bits[:]); err != nil {
			return nil, err
		}
	}
	return groups, nil
}

// writeHeads writes descriptors and superblocks, the copies first: the image is none before
// its first superblock is there.
func (w *Writer) writeHeads(s super, groups []group) error {
	if err := w.out.flush(); err != nil {
		return err
	}
	head := make([]byte, (1+s.descUsed())*blockSize)
	for nr := range groups {
		groups[nr].encode(head[blockSize+nr*descSize:], uint32(nr))
	}
	for _, s.group = range backups(s.groups) {
		s.encode(head[:superSize])
		if _, err := w.file.WriteAt(head, int64(s.group)*blocksPerGroup*blockSize); err != nil {
			return err
		}
	}
	if _, err := w.file.WriteAt(head[blockSize:], blockSize); err != nil {
		return err
	}
	s.group = 0
	s.encode(head[:superSize])
	_, err := w.file.WriteAt(head[:superSize], superSize)
	return err
}
