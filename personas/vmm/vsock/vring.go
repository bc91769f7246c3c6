package vsock

import (
	"encoding/binary"
	"errors"
	"fmt"
	"sync/atomic"
	"unsafe"
)

// A split virtqueue of n entries (virtio 1.2, section 2.7):
//
//	descriptors  n x { addr u64, len u32, flags u16, next u16 }         the driver's
//	available    flags u16, idx u16, n x head u16, used_event u16       the driver's
//	used         flags u16, idx u16, n x { id u32, len u32 }, avail_event u16   ours
const (
	descLen   = 16
	maxQueue  = 32768 // virtio's bound
	descNext  = 1
	descWrite = 2
	descTable = 4
)

// errRing is a driver that broke the rules of the ring itself. The ring is stopped then.
var errRing = errors.New("driver broke the ring")

// vring is the device's side of a virtqueue. It belongs to one goroutine.
type vring struct {
	mem               *memory
	num               uint16
	desc, avail, used []byte
	eventIdx          bool

	next     uint16 // index of the available ring that is taken next
	usedIdx  uint16 // index of the used ring that is filled next
	signaled uint16 // usedIdx when the driver was last told
}

// chain is a descriptor chain, a buffer that the driver made available. The segments
// lie in guest memory.
type chain struct {
	head     uint16
	readable [][]byte
	writable [][]byte
}

// ringAddrs are the places of a ring, in QEMU's addresses.
type ringAddrs struct {
	desc, used, avail uint64
}

// newVring lays a ring over guest memory, to go on at index base.
func newVring(m *memory, num uint32, a ringAddrs, base uint16, eventIdx bool) (*vring, error) {
	if num == 0 || num > maxQueue || num&(num-1) != 0 {
		return nil, fmt.Errorf("ring of %d entries", num)
	}
	if a.desc%16 != 0 || a.avail%2 != 0 || a.used%4 != 0 {
		return nil, errors.New("ring is not aligned")
	}
	r := &vring{mem: m, num: uint16(num), eventIdx: eventIdx, next: base}
	n := uint64(num)
	var err1, err2, err3 error
	r.desc, err1 = m.user(a.desc, descLen*n)
	r.avail, err2 = m.user(a.avail, 4+2*n+2)
	r.used, err3 = m.user(a.used, 4+8*n+2)
	if err := errors.Join(err1, err2, err3); err != nil {
		return nil, fmt.Errorf("place ring: %w", err)
	}
	// The used index outlives us in guest memory.
	r.usedIdx = load16(r.used[2:])
	r.signaled = r.usedIdx
	return r, nil
}

// pop takes the next chain. It returns false if there is none. An error other than
// errRing is about this chain alone, whose head is valid: give it back with push.
func (r *vring) pop() (c chain, ok bool, err error) {
	// The load of the index is the barrier before the loads of what it covers.
	waiting := load16(r.avail[2:]) - r.next
	if waiting == 0 {
		return c, false, nil
	}
	if waiting > r.num {
		return c, false, fmt.Errorf("%w: %d chains available in a ring of %d", errRing, waiting, r.num)
	}
	at := 4 + 2*int(r.next%r.num)
	c.head = binary.LittleEndian.Uint16(r.avail[at:])
	if c.head >= r.num {
		return c, false, fmt.Errorf("%w: head %d in a ring of %d", errRing, c.head, r.num)
	}
	r.next++
	err = r.walk(&c)
	return c, true, err
}

// unpop undoes the last pop.
func (r *vring) unpop() { r.next-- }

// walk follows a chain. No descriptor can be met more often than there are any, so a
// loop ends.
func (r *vring) walk(c *chain) error {
	table, i, indirect := r.desc, c.head, false
	for budget := int(r.num); budget > 0; budget-- {
		at := int(i) * descLen
		if at+descLen > len(table) {
			return errors.New("descriptor is outside its table")
		}
		d := table[at:][:descLen]
		le := binary.LittleEndian
		addr, n, flags, next := le.Uint64(d), le.Uint32(d[8:]), le.Uint16(d[12:]), le.Uint16(d[14:])
		if flags&descTable != 0 {
			if indirect || flags&descNext != 0 {
				return errors.New("indirect table in the wrong place")
			}
			t, err := r.indirect(addr, n)
			if err != nil {
				return err
			}
			table, i, indirect = t, 0, true
			continue
		}
		if err := c.add(r.mem, addr, n, flags&descWrite != 0); err != nil {
			return err
		}
		if flags&descNext == 0 {
			return nil
		}
		i = next
	}
	return errors.New("descriptor chain is a loop")
}

// indirect returns a copy-free view of an indirect table.
func (r *vring) indirect(addr uint64, n uint32) ([]byte, error) {
	if n == 0 || n%descLen != 0 || n > descLen*uint32(r.num) {
		return nil, fmt.Errorf("indirect table of %d bytes", n)
	}
	segs, err := r.mem.appendGuest(nil, addr, n)
	if err != nil {
		return nil, err
	}
	if len(segs) != 1 {
		return nil, errAddress
	}
	return segs[0], nil
}

// add appends a buffer to the chain.
func (c *chain) add(m *memory, addr uint64, n uint32, write bool) (err error) {
	if write {
		c.writable, err = m.appendGuest(c.writable, addr, n)
		return err
	}
	if len(c.writable) > 0 {
		return errors.New("readable buffer after a writable one")
	}
	c.readable, err = m.appendGuest(c.readable, addr, n)
	return err
}

// push gives a chain back with n bytes written. The driver sees it with publish.
func (r *vring) push(head uint16, n uint32) {
	at := 4 + 8*int(r.usedIdx%r.num)
	binary.LittleEndian.PutUint32(r.used[at:], uint32(head))
	binary.LittleEndian.PutUint32(r.used[at+4:], n)
	r.usedIdx++
}

// publish shows the driver all chains pushed and reports whether it wants to be told.
func (r *vring) publish() bool {
	if r.usedIdx == r.signaled {
		return false
	}
	// Flags and index are ours both, and are one word.
	atomic.StoreUint32(word(r.used), uint32(r.usedIdx)<<16)
	old := r.signaled
	r.signaled = r.usedIdx
	if !r.eventIdx {
		const noInterrupt = 1
		return load16(r.avail)&noInterrupt == 0
	}
	event := load16(r.avail[4+2*int(r.num):])
	return r.usedIdx-event-1 < r.usedIdx-old
}

// await asks the driver to kick when it makes the next chain available, and reports
// whether one is there already, in which case the kick may not come.
func (r *vring) await() bool {
	if r.eventIdx {
		store16(r.used[4+8*int(r.num):], r.next)
	}
	return load16(r.avail[2:]) != r.next
}

// word returns b's first four bytes, which are aligned, for atomic access.
func word(b []byte) *uint32 { return (*uint32)(unsafe.Pointer(unsafe.SliceData(b))) }

// word16 returns the aligned word with the 16 bits that b begins with, and their shift.
// The word may begin two bytes before b: rings are aligned to two at least, and a word
// is in one page.
func word16(b []byte) (*uint32, uint) {
	p := unsafe.Pointer(unsafe.SliceData(b[:2]))
	odd := uintptr(p) & 2
	return (*uint32)(unsafe.Add(p, -int(odd))), uint(odd) * 8
}

// load16 loads 16 bits with the ordering that the ring needs.
func load16(b []byte) uint16 {
	w, shift := word16(b)
	return uint16(atomic.LoadUint32(w) >> shift)
}

// store16 stores 16 bits, leaves their neighbours alone, and is a full barrier.
func store16(b []byte, v uint16) {
	w, shift := word16(b)
	for {
		old := atomic.LoadUint32(w)
		if atomic.CompareAndSwapUint32(w, old, old&^(0xffff<<shift)|uint32(v)<<shift) {
			return
		}
	}
}
