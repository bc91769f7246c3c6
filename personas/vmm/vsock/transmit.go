package vsock

import (
	"errors"
	"fmt"
)

// transmit is the work of the tx ring: it takes packets from the guest until there are
// no more.
func (m *mux) transmit(r *vring, notify func()) error {
	for {
		for range burst {
			c, ok, err := r.pop()
			if errors.Is(err, errRing) {
				notify()
				return err
			}
			if !ok {
				break
			}
			if err == nil {
				if h, payload, err := parsePacket(c.readable); err == nil {
					m.handle(&h, payload)
				}
			}
			r.push(c.head, 0) // whatever was in it: a bad packet is dropped
		}
		notify()
		if !r.await() {
			return nil
		}
	}
}

// handle acts on one packet of the guest.
func (m *mux) handle(h *header, payload [][]byte) {
	if h.srcCID != m.cid || h.dstCID != hostCID {
		return // as Firecracker: not for us, no answer
	}
	k := key{host: h.dstPort, guest: h.srcPort}
	m.mu.Lock()
	s := m.streams[k]
	if s == nil || h.typ != typeStream {
		dial := h.typ == typeStream && h.op == opRequest
		if !dial && h.op != opReset {
			m.refuseLocked(k)
		}
		m.mu.Unlock()
		if dial {
			m.dial(k, h)
		}
		return
	}
	s.noteCredit(h)
	m.offerLocked(s)
	if h.op == opData {
		m.takeData(s, payload) // unlocks
		return
	}
	m.controlLocked(s, h)
	m.mu.Unlock()
}

// controlLocked acts on a control packet for a stream.
func (m *mux) controlLocked(s *stream, h *header) {
	switch h.op {
	case opResponse:
		if s.state != connecting {
			m.killLocked(s)
			return
		}
		s.stopTimer()
		s.state = open
		// The socket is fresh and its buffer empty: this does not wait, or fails.
		greeting := fmt.Appendf(nil, "OK %d\n", s.host)
		if n, err := writeNow(s.conn, [][]byte{greeting}); err != nil || n != len(greeting) {
			m.killLocked(s)
			return
		}
		m.wg.Go(func() { m.read(s) })
	case opReset:
		s.noReply = true
		m.drainLocked(s)
	case opShutdown:
		// A half-close is not forwarded.
		if h.flags&shutBoth == shutBoth {
			m.drainLocked(s)
		}
	case opCreditRequest:
		m.askLocked(s, wantCredit)
	case opCreditUpdate: // noted
	default: // a second request among them
		m.killLocked(s)
	}
}

// drainLocked ends a stream that the guest is done with, as soon as the host has got all
// that the guest had sent. Unlike Firecracker we give a slow host all the time it wants:
// what waits is bounded, and the guest has no use for it any more.
func (m *mux) drainLocked(s *stream) {
	if s.state == connecting || (len(s.out) == 0 && !s.writing) {
		m.killLocked(s)
		return
	}
	if s.state == draining {
		return
	}
	s.state = draining
	s.pending = nil
	s.stopTimer()
	wake(s.taken)
}

// takeData forwards data of the guest to the host: directly if the host keeps up, else
// by the stream's buffer and a goroutine that empties it. It unlocks mu.
func (m *mux) takeData(s *stream, payload [][]byte) {
	defer m.mu.Unlock()
	n := size(payload)
	if s.state == connecting || uint32(n) > s.room() {
		m.killLocked(s)
		return
	}
	if s.state == draining {
		return
	}
	s.received += uint32(n)
	if !s.writing && len(s.out) == 0 {
		s.writing = true
		m.mu.Unlock()
		done, err := writeNow(s.conn, payload)
		m.mu.Lock()
		s.writing = false
		if s.state == gone {
			return
		}
		if err != nil {
			m.killLocked(s)
			return
		}
		m.forwardedLocked(s, done)
		_, payload = cut(payload, done)
	}
	if len(payload) == 0 {
		m.drainedLocked(s)
		return
	}
	for _, p := range payload {
		s.out = append(s.out, p...)
	}
	if !s.writing {
		s.writing = true
		m.wg.Go(func() { m.flush(s) })
	}
}

// flush writes a stream's buffer to the host until it is empty. It holds s.writing.
func (m *mux) flush(s *stream) {
	for {
		m.mu.Lock()
		chunk := s.out
		s.out = nil
		if len(chunk) == 0 || s.state == gone {
			s.writing = false
			m.drainedLocked(s)
			m.mu.Unlock()
			return
		}
		m.mu.Unlock()
		for len(chunk) > 0 {
			n, err := s.conn.Write(chunk[:min(len(chunk), readSize)])
			m.mu.Lock()
			if err != nil {
				s.writing = false
				m.killLocked(s)
				m.mu.Unlock()
				return
			}
			m.forwardedLocked(s, n)
			m.mu.Unlock()
			chunk = chunk[n:]
		}
	}
}

// forwardedLocked notes that the host has got n bytes more, and tells the guest when it
// has half of its room back.
func (m *mux) forwardedLocked(s *stream, n int) {
	s.forwarded += uint32(n)
	if s.forwarded-s.told >= bufAlloc/2 && !s.noReply {
		m.askLocked(s, wantCredit)
	}
}

// drainedLocked ends a stream that was waiting for its buffer to be empty.
func (m *mux) drainedLocked(s *stream) {
	if s.state == draining && len(s.out) == 0 && !s.writing {
		m.killLocked(s)
	}
}

// cut returns segs before and after the first n bytes.
func cut(segs [][]byte, n int) (before, after [][]byte) {
	before, _ = limit(segs, n)
	for i, s := range segs {
		if n < len(s) {
			return before, append([][]byte{s[n:]}, segs[i+1:]...)
		}
		n -= len(s)
	}
	return before, nil
}
