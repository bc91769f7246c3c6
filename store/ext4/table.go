package ext4

// table is a list that grows in chunks: nothing is copied when it grows, and what it
// holds has no pointers, so that millions of records cost the garbage collector nothing.
// Record 0 is never used and means "none".
type table[T any] struct {
	chunks [][]T
	n      uint32 // records in use, record 0 included
}

const tableChunk = 2048

// add appends v and returns its number.
func (t *table[T]) add(v T) uint32 {
	if t.n == 0 {
		t.n = 1
	}
	if int(t.n/tableChunk) == len(t.chunks) {
		t.chunks = append(t.chunks, make([]T, tableChunk))
	}
	i := t.n
	t.n++
	*t.at(i) = v
	return i
}

// at returns record i, which add has returned. The pointer stays valid.
func (t *table[T]) at(i uint32) *T {
	return &t.chunks[i/tableChunk][i%tableChunk]
}

// arena keeps byte strings of at most arenaChunk bytes back to back.
type arena struct {
	chunks [][]byte
}

const (
	arenaChunk = 1 << 16
	// maxArena is far below where references wrap, and what a tree needs of names.
	maxArena = 1 << 30
)

// full tells whether there is too much for the caller to add more.
func (a *arena) full() bool { return len(a.chunks) > maxArena/arenaChunk }

// add stores p, which may be anything that is convertible to bytes, and returns where.
func (a *arena) add(p string) uint32 {
	last := len(a.chunks) - 1
	if last < 0 || len(a.chunks[last])+len(p) > arenaChunk {
		a.chunks = append(a.chunks, make([]byte, 0, arenaChunk))
		last++
	}
	off := len(a.chunks[last])
	a.chunks[last] = append(a.chunks[last], p...)
	return uint32(last*arenaChunk + off)
}

// at returns the n bytes stored at ref.
func (a *arena) at(ref uint32, n int) []byte {
	off := int(ref % arenaChunk)
	return a.chunks[ref/arenaChunk][off : off+n]
}
