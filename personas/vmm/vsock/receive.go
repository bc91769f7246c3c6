package vsock

import "errors"

// burst is how many packets are given to the guest between two interrupts.
const burst = 64

// receive is the work of the rx ring: it fills the guest's buffers with packets while
// there are both.
func (m *mux) receive(r *vring, notify func()) error {
	for {
		moved, full, err := m.fill(r)
		notify()
		if err != nil {
			return err
		}
		switch {
		case moved == burst:
		case full && r.await(): // a buffer came in the meantime
		default:
			return nil
		}
	}
}

// fill moves up to a burst of packets. full means that the guest has no buffer left.
func (m *mux) fill(r *vring) (moved int, full bool, err error) {
	for ; moved < burst; moved++ {
		c, ok, err := r.pop()
		if errors.Is(err, errRing) {
			return moved, false, err
		}
		if !ok {
			return moved, true, nil
		}
		if err != nil || len(c.readable) > 0 || size(c.writable) < headerLen {
			r.push(c.head, 0) // of no use
			continue
		}
		n := m.emit(c.writable)
		if n == 0 {
			r.unpop()
			return moved, false, nil
		}
		r.push(c.head, uint32(n))
	}
	return moved, false, nil
}

// emit writes the next packet for the guest into a buffer and returns its length, or 0
// if there is none. Control goes first: it is small, and data may be waiting for it.
func (m *mux) emit(buf [][]byte) int {
	m.mu.Lock()
	defer m.mu.Unlock()
	if h, ok := m.nextControlLocked(); ok {
		return put(buf, h, nil)
	}
	for s := m.data.pop(); s != nil; s = m.data.pop() {
		s.inData = false
		n := min(len(s.pending), s.credit(), maxPayload, size(buf)-headerLen)
		if n == 0 {
			continue // comes back with credit, or with data
		}
		length := put(buf, s.header(m.cid, opData, n), s.pending[:n])
		s.sent += uint32(n)
		s.pending = s.pending[n:]
		if len(s.pending) == 0 {
			wake(s.taken)
		} else {
			m.offerLocked(s)
		}
		return length
	}
	return 0
}

// nextControlLocked returns the next control packet.
func (m *mux) nextControlLocked() (header, bool) {
	if len(m.resets) > 0 {
		h := m.resets[0]
		m.resets = m.resets[1:]
		return h, true
	}
	if s := m.ctl.pop(); s != nil {
		s.inCtl = false
		h := s.nextWish(m.cid)
		if s.want != 0 {
			s.inCtl = true
			m.ctl.push(s)
		}
		return h, true
	}
	return header{}, false
}

// nextWish returns the most urgent control packet of a stream that has one.
func (s *stream) nextWish(cid uint64) header {
	switch {
	case s.want&wantRequest != 0:
		s.want &^= wantRequest
		return s.header(cid, opRequest, 0)
	case s.want&wantResponse != 0:
		s.want &^= wantResponse | wantCredit
		return s.header(cid, opResponse, 0)
	case s.want&wantCredit != 0:
		s.want &^= wantCredit
		return s.header(cid, opCreditUpdate, 0)
	}
	s.want &^= wantShutdown
	h := s.header(cid, opShutdown, 0)
	h.flags = shutBoth
	return h
}

// put writes a packet into a buffer that has room for it.
func put(buf [][]byte, h header, payload []byte) int {
	raw := h.encode()
	_, rest := scatter(buf, raw[:])
	scatter(rest, payload)
	return headerLen + len(payload)
}
