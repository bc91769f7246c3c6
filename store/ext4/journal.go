package ext4

import "encoding/binary"

// journalSuper is the first block of an empty journal. It is big-endian, unlike all else.
func journalSuper(blocks uint32) []byte {
	b, be := make([]byte, blockSize), binary.BigEndian
	be.PutUint32(b[0:], 0xc03b3998)
	be.PutUint32(b[4:], 4) // superblock, version 2
	be.PutUint32(b[12:], blockSize)
	be.PutUint32(b[16:], blocks)
	be.PutUint32(b[20:], 1)   // first block of the log
	be.PutUint32(b[24:], 1)   // first expected transaction
	be.PutUint32(b[0x40:], 1) // file systems that use it
	return b
}

// writeJournal makes the journal inode and its first block; the rest is a hole.
func (w *Writer) writeJournal(spans []span, blocks uint32) error {
	in := w.tree.inodes.at(inoJournal)
	*in = inode{mode: modeRegular | 0o600, links: 1, size: int64(blocks) * blockSize}
	logical := uint32(0)
	for _, s := range spans {
		w.appendExtent(in, logical, s)
		logical += s.count
	}
	return w.out.write(spans[0].start, journalSuper(blocks))
}

// The resize inode keeps the reserved descriptor blocks, so that nobody else uses them. It is
// mapped in the old way: its double indirect block lists the reserved blocks of group 0, and
// each of these, taken as an indirect block, lists its copies in the backup groups.
const (
	wordsPerBlock = blockSize / 4
	doubleAt      = 13 // of the 15 words in the inode
)

// writeResize writes the reserved descriptor blocks and the one block over them.
func (w *Writer) writeResize(g geometry, double uint32) (r rawInode, err error) {
	le := binary.LittleEndian
	copies := backups(g.groups)
	var top [blockSize]byte
	first := g.descUsed()
	area := make([]byte, (g.descBlocks-first)*blockSize)
	for i := first; i < g.descBlocks; i++ {
		at := 1 + i
		le.PutUint32(top[4*(i%wordsPerBlock):], at)
		b := area[(i-first)*blockSize:]
		for k, nr := range copies {
			le.PutUint32(b[4*k:], nr*blocksPerGroup+at)
		}
	}
	if _, err := w.file.WriteAt(area, int64(1+first)*blockSize); err != nil {
		return r, err
	}
	if err := w.out.write(double, top[:]); err != nil {
		return r, err
	}
	reserved := uint64(g.descBlocks - first)
	r = rawInode{
		mode:    modeRegular | 0o600,
		links:   1,
		size:    (12 + wordsPerBlock + wordsPerBlock*wordsPerBlock) * blockSize,
		sectors: (1 + reserved*uint64(1+len(copies))) * (blockSize / 512),
	}
	le.PutUint32(r.block[4*doubleAt:], double)
	return r, nil
}
