package ext4

import "slices"

// cursor hands out blocks in ascending order and steps over the heads of backup groups.
// It is a plain value: a copy of it can try a layout.
type cursor struct {
	next  uint32
	limit uint32
	head  uint32 // size of a head
}

// span is a run of blocks.
type span struct {
	start, count uint32
}

// take hands out a run of at most n blocks, at least one.
func (c *cursor) take(n uint32) (span, error) {
	room := c.settle()
	n = min(n, room)
	if c.next >= c.limit || n > c.limit-c.next {
		n = c.limit - min(c.next, c.limit)
	}
	if n == 0 {
		return span{}, ErrNoSpace
	}
	s := span{c.next, n}
	c.next += n
	return s, nil
}

// takeWhole hands out one run of exactly n blocks, and the run that had to be left out to get it.
func (c *cursor) takeWhole(n uint32) (s, gap span, err error) {
	if room := c.settle(); room < n {
		gap = span{c.next, room}
		c.next += room
		c.settle()
	}
	if c.next > c.limit || n > c.limit-c.next {
		return span{}, span{}, ErrNoSpace
	}
	s = span{c.next, n}
	c.next += n
	return s, gap, nil
}

// settle steps over a backup head and returns how many blocks follow until the next one.
func (c *cursor) settle() uint32 {
	g := c.next / blocksPerGroup
	if at := c.next % blocksPerGroup; at < c.head && isBackup(g) {
		c.next = g*blocksPerGroup + c.head
	}
	end := g + 1
	for end < maxGroups && !isBackup(end) {
		end++
	}
	return end*blocksPerGroup - c.next
}

// freeList keeps the runs below the cursor that hold nothing.
type freeList struct {
	spans []span
}

func (f *freeList) add(s span) {
	if s.count == 0 {
		return
	}
	if n := len(f.spans); n > 0 && f.spans[n-1].start+f.spans[n-1].count == s.start {
		f.spans[n-1].count += s.count
		return
	}
	f.spans = append(f.spans, s)
}

// merge sorts the list and joins neighbours.
func (f *freeList) merge() {
	slices.SortFunc(f.spans, func(a, b span) int { return int(int64(a.start) - int64(b.start)) })
	old := f.spans
	f.spans = f.spans[:0]
	for _, s := range old {
		f.add(s)
	}
}
