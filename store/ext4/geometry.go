package ext4

import "fmt"

// geometry is the shape of a file system: all that its size decides.
type geometry struct {
	blocks        uint32
	groups        uint32
	inodesInGroup uint32
	tableBlocks   uint32 // of one group's inode table
	journalBlocks uint32
	descBlocks    uint32 // of a descriptor area, in use and reserved
}

// descArea is the size of the descriptor area, in blocks, that opts ask for.
func descArea(opts Options) uint32 {
	if opts.MaxBytes == 0 || opts.SizeBytes == 0 {
		return maxDescBlocks
	}
	const each = descsPerBlock * blocksPerGroup * blockSize
	return uint32(min(ceilDiv(uint64(max(opts.MaxBytes, opts.SizeBytes)), each), maxDescBlocks))
}

// usableBlocks leaves out a last group that is too small to be of use.
func usableBlocks(blocks int64, head uint32) int64 {
	rest := blocks % blocksPerGroup
	least := int64(minTailBlocks)
	if g := blocks / blocksPerGroup; g < maxGroups && isBackup(uint32(g)) {
		least += int64(head)
	}
	if blocks > blocksPerGroup && rest < least {
		return blocks - rest
	}
	return blocks
}

// shape is the geometry of a file system of this size that holds the given number of inodes
// and leaves some.
func shape(blocks, inodes, descBlocks uint32) (geometry, error) {
	g := geometry{blocks: blocks, groups: uint32(ceilDiv(uint64(blocks), blocksPerGroup)), descBlocks: descBlocks}
	// One inode for 16 KiB as mke2fs has it, one for 8 KiB below 512 MiB, but always a
	// quarter more than are in use.
	ratio := uint32(4)
	if blocks < 512<<20/blockSize {
		ratio = 2
	}
	want := max(min(blocks, blocksPerGroup)/ratio, uint32(ceilDiv(uint64(inodes)+uint64(inodes)/4+64, uint64(g.groups))))
	g.inodesInGroup = roundUp(want, inodesPerBlock)
	if g.inodesInGroup > maxInodeGroup {
		return g, fmt.Errorf("%d inodes: %w", inodes, ErrNoSpace)
	}
	g.tableBlocks = g.inodesInGroup / inodesPerBlock
	// The journal does not grow with the file system, so it is rather large from the start.
	// It costs nothing on the host before it is used. Growing into a backup group touches the
	// whole descriptor area in one transaction, which may have a quarter of the journal.
	switch {
	case blocks < 128<<20/blockSize:
		g.journalBlocks = 8 * maxDescBlocks
	case blocks < 1<<30/blockSize:
		g.journalBlocks = 4096
	default:
		g.journalBlocks = 16384
	}
	return g, nil
}

// places says where the metadata of all groups lies.
type places struct {
	resize  uint32   // the one block of the resize inode's map
	journal []span   // in the order of the journal's own blocks
	bitmaps []span   // of blocks, then of inodes
	tables  []uint32 // by group
	gaps    []span   // left out on the way
}

// place puts the metadata of g at c and moves c.
func place(c *cursor, g geometry) (p places, err error) {
	list := func(n uint32) (spans []span, err error) {
		for n > 0 {
			s, err := c.take(n)
			if err != nil {
				return nil, err
			}
			spans, n = append(spans, s), n-s.count
		}
		return spans, nil
	}
	one, err := c.take(1)
	if err != nil {
		return p, err
	}
	p.resize = one.start
	if p.journal, err = list(g.journalBlocks); err != nil {
		return p, err
	}
	if p.bitmaps, err = list(2 * g.groups); err != nil {
		return p, err
	}
	p.tables = make([]uint32, g.groups)
	for i := range p.tables {
		s, gap, err := c.takeWhole(g.tableBlocks)
		if err != nil {
			return p, err
		}
		p.tables[i] = s.start
		if gap.count > 0 {
			p.gaps = append(p.gaps, gap)
		}
	}
	return p, nil
}

// bitmap returns the block of the i-th bitmap.
func (p *places) bitmap(i uint32) uint32 {
	for _, s := range p.bitmaps {
		if i < s.count {
			return s.start + i
		}
		i -= s.count
	}
	return 0
}

// fit chooses the geometry for the given size, or the smallest that leaves freeBytes, and
// places the metadata behind c.
func fit(c *cursor, opts Options, inodes uint32) (geometry, places, error) {
	area := descArea(opts)
	if opts.SizeBytes != 0 {
		g, err := shape(c.limit, inodes, area)
		if err != nil {
			return g, places{}, err
		}
		p, err := place(c, g)
		return g, p, err
	}
	free := ceilDiv(uint64(max(opts.FreeBytes, 0)), blockSize)
	groups := uint64(c.next)/blocksPerGroup + 1
	for groups <= maxGroups {
		try := *c
		g, err := shape(uint32(groups*blocksPerGroup), inodes, area)
		if err != nil {
			groups++
			continue
		}
		p, err := place(&try, g)
		if err != nil {
			return g, p, err
		}
		need := uint64(try.next) + free
		for b := try.next/blocksPerGroup + 1; b < uint32(groups); b++ {
			if isBackup(b) {
				need += uint64(c.head)
			}
		}
		if need <= groups*blocksPerGroup {
			c.next, c.limit = try.next, g.blocks
			return g, p, nil
		}
		groups = max(groups+1, ceilDiv(need, blocksPerGroup))
	}
	return geometry{}, places{}, ErrTooBig
}
