package vsock

import (
	"net"
	"time"
)

// bufAlloc is how much a stream buffers of what the guest sends; the guest is told and
// must keep to it.
const bufAlloc = 256 << 10

// readSize is how much a stream takes from its host connection at once.
const readSize = 64 << 10

// Deadlines of Firecracker for a guest that does not answer.
const (
	connectTimeout = 2 * time.Second
	closeTimeout   = 2 * time.Second
)

// state is where a stream is in its life:
//
//	CONNECT read -> connecting -> open        guest said RESPONSE
//	                     |         |
//	  guest dialled: ----+-------> open       host took the connection
//	                     |         |-> closing   host's end of file, SHUTDOWN sent
//	                     |         |-> draining  guest shut down both, or reset
//	                     v         v
//	                    gone <-----+          reset by either side, or too late
type state int

const (
	connecting state = iota
	open
	closing
	draining
	gone
)

// wish is a set of control packets that a stream wants to send. A set, not a list, so
// that a guest that takes no packets cannot make it grow.
type wish uint8

const (
	wantRequest wish = 1 << iota
	wantResponse
	wantCredit
	wantShutdown
)

// key identifies a stream by its ports.
type key struct {
	host, guest uint32
}

// stream is a connection between the guest and a unix socket. mux.mu guards all of it;
// the connection itself is read by one goroutine and written by one at a time.
type stream struct {
	key
	conn  *net.UnixConn
	state state
	timer *time.Timer // of connecting and closing

	want   wish
	inCtl  bool // in mux.ctl
	inData bool // in mux.data

	// To the guest. pending is a part of the reader's buffer; taken wakes the reader
	// when it is empty.
	pending   []byte
	taken     chan struct{}
	sent      uint32 // bytes ever sent to the guest
	peerAlloc uint32 // the guest's buffer, as it said
	peerTaken uint32 // bytes it has consumed, as it said

	// From the guest. out waits for the host to read; writing is held by who writes to conn.
	out       []byte
	writing   bool
	received  uint32 // bytes ever received
	forwarded uint32 // of these, given to the host
	told      uint32 // forwarded as the guest knows it
	noReply   bool   // the guest has reset the stream: it wants no packet any more
}

// credit returns how much the guest has room for. A guest that lies gets nothing.
func (s *stream) credit() int {
	inFlight := s.sent - s.peerTaken
	if inFlight > s.peerAlloc {
		return 0
	}
	return int(s.peerAlloc - inFlight)
}

// room returns how much the guest may send before it has to wait.
func (s *stream) room() uint32 { return bufAlloc - (s.received - s.forwarded) }

// noteCredit takes what every packet of the guest says about its buffer.
func (s *stream) noteCredit(h *header) {
	s.peerAlloc, s.peerTaken = h.bufAlloc, h.fwdCnt
}

// header returns the header of a packet to the guest.
func (s *stream) header(cid uint64, op uint16, n int) header {
	s.told = s.forwarded
	return header{
		srcCID: hostCID, dstCID: cid, srcPort: s.host, dstPort: s.guest,
		len: uint32(n), typ: typeStream, op: op, bufAlloc: bufAlloc, fwdCnt: s.forwarded,
	}
}

// after arranges for the end of a state that lasts too long.
func (s *stream) after(d time.Duration, do func()) {
	s.stopTimer()
	s.timer = time.AfterFunc(d, do)
}

func (s *stream) stopTimer() {
	if s.timer != nil {
		s.timer.Stop()
		s.timer = nil
	}
}
