package vsock

import (
	"net"
	"slices"
	"sync"
)

// Bounds on what all streams together may hold.
const (
	maxStreams = 1023
	maxResets  = 1024
)

// firstPort is where the host's own ports begin, as Firecracker numbers them.
const firstPort = 1 << 30

// mux joins the streams to the two rings. The tx goroutine brings packets from the
// guest, the rx goroutine takes packets to it; each stream's reader brings data.
type mux struct {
	cid  uint64
	path string

	// wg counts the goroutines of streams and greetings.
	wg sync.WaitGroup

	// mu guards what follows and all streams. It is never held over I/O that can wait.
	mu       sync.Mutex
	closed   bool
	streams  map[key]*stream
	greeting map[*net.UnixConn]struct{} // accepted, CONNECT not read yet
	nextPort uint32
	// ctl and data are the streams with something to send, first come, first served.
	// resets are for streams that do not exist, the oldest first.
	ctl, data fifo
	resets    []header
	wakeRx    func()
}

func newMux(cid uint64, path string) *mux {
	return &mux{
		cid: cid, path: path, nextPort: firstPort, wakeRx: func() {},
		streams: make(map[key]*stream), greeting: make(map[*net.UnixConn]struct{}),
	}
}

// fifo is a queue of streams, each in it once at most.
type fifo []*stream

func (f *fifo) push(s *stream) { *f = append(*f, s) }

func (f *fifo) pop() *stream {
	if len(*f) == 0 {
		return nil
	}
	s := (*f)[0]
	(*f)[0] = nil
	*f = (*f)[1:]
	return s
}

// remove takes a stream out: a guest must not be able to fill the queue with dead ones.
func (f *fifo) remove(s *stream) {
	*f = slices.DeleteFunc(*f, func(x *stream) bool { return x == s })
}

// reset ends all streams: the guest that had them is gone. The device stays.
func (m *mux) reset() {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, s := range m.streams {
		m.removeLocked(s)
	}
	m.resets = nil
}

// close ends all streams, lets no more begin, and waits for their goroutines.
func (m *mux) close() {
	m.mu.Lock()
	m.closed = true
	for c := range m.greeting {
		c.Close()
	}
	m.mu.Unlock()
	m.reset()
	m.wg.Wait()
}

// addLocked takes a stream in, unless there are too many or one has its ports.
func (m *mux) addLocked(s *stream) bool {
	if m.closed || len(m.streams)+len(m.greeting) >= maxStreams || m.streams[s.key] != nil {
		return false
	}
	s.taken = make(chan struct{}, 1)
	m.streams[s.key] = s
	return true
}

// removeLocked forgets a stream and closes its connection, which ends its goroutines.
func (m *mux) removeLocked(s *stream) {
	if s.state == gone {
		return
	}
	s.state = gone
	s.stopTimer()
	s.conn.Close()
	s.pending, s.out = nil, nil
	delete(m.streams, s.key)
	if s.inCtl {
		m.ctl.remove(s)
	}
	if s.inData {
		m.data.remove(s)
	}
	wake(s.taken)
}

// killLocked removes a stream and tells the guest, unless that said so itself.
func (m *mux) killLocked(s *stream) {
	if s.state == gone {
		return
	}
	if !s.noReply && s.want&wantRequest == 0 {
		m.refuseLocked(s.key)
	}
	m.removeLocked(s)
}

// kill is killLocked for timers.
func (m *mux) kill(s *stream) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.killLocked(s)
}

// refuseLocked sends a reset for a stream that does not exist here. If the guest leaves
// too many of them lying it loses the newest, and has to find out by itself.
func (m *mux) refuseLocked(k key) {
	if len(m.resets) >= maxResets {
		return
	}
	m.resets = append(m.resets, header{
		srcCID: hostCID, dstCID: m.cid, srcPort: k.host, dstPort: k.guest, typ: typeStream, op: opReset,
	})
	m.wakeRx()
}

// askLocked queues control packets of a stream.
func (m *mux) askLocked(s *stream, w wish) {
	s.want |= w
	if !s.inCtl {
		s.inCtl = true
		m.ctl.push(s)
	}
	m.wakeRx()
}

// offerLocked queues a stream that has data, and credit to send it.
func (m *mux) offerLocked(s *stream) {
	if s.state != open || s.inData || len(s.pending) == 0 || s.credit() == 0 {
		return
	}
	s.inData = true
	m.data.push(s)
	m.wakeRx()
}

// wake sends on a channel that holds one wish.
func wake(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
