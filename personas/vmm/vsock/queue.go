package vsock

import (
	"encoding/binary"
	"fmt"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// work moves packets between a running ring and the mux until there is nothing to move.
// It returns an error if the driver broke the ring.
type work func(r *vring, notify func()) error

// queue is a virtqueue with what drives it: while it runs, one goroutine waits for the
// driver's kicks and another does the work.
type queue struct {
	work work

	// Set by messages. Only num, base, addrs and kick matter to a start.
	num     uint32
	base    uint16
	addrs   *ringAddrs
	enabled bool
	kick    *os.File

	// wake asks for work; it holds at most one wish.
	wake chan struct{}
	quit chan struct{} // closed to stop; nil when stopped
	done sync.WaitGroup
	ring *vring

	// callMu guards call, which QEMU replaces while the ring runs.
	callMu sync.Mutex
	call   *os.File
}

func newQueue(w work) *queue {
	return &queue{work: w, wake: make(chan struct{}, 1)}
}

// running reports whether start was called, and stop was not since.
func (q *queue) running() bool { return q.quit != nil }

// start begins to serve r.
func (q *queue) start(r *vring) {
	q.ring, q.quit = r, make(chan struct{})
	_ = q.kick.SetReadDeadline(time.Time{})
	q.done.Go(q.listen)
	q.done.Go(q.serve)
	q.poke() // for what came before
}

// stop waits until nothing touches guest memory, and notes where the ring was.
func (q *queue) stop() {
	if !q.running() {
		return
	}
	close(q.quit)
	_ = q.kick.SetReadDeadline(time.Unix(1, 0))
	q.done.Wait()
	q.base, q.ring, q.quit = q.ring.next, nil, nil
}

// poke asks for work.
func (q *queue) poke() {
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

// listen turns kicks into wishes.
func (q *queue) listen() {
	var b [8]byte
	for {
		if _, err := q.kick.Read(b[:]); err != nil {
			return
		}
		q.poke()
	}
}

// serve does the work when asked to.
func (q *queue) serve() {
	for {
		select {
		case <-q.quit:
			return
		case <-q.wake:
		}
		if err := q.work(q.ring, q.notify); err != nil {
			return // the driver gets no more until it resets the device
		}
	}
}

// notify shows the driver what was given back, and interrupts it if it wants that.
func (q *queue) notify() {
	if !q.ring.publish() {
		return
	}
	q.callMu.Lock()
	defer q.callMu.Unlock()
	if q.call != nil {
		q.interruptLocked()
	}
}

// setKick replaces the eventfd that the driver kicks. The ring must be stopped.
func (q *queue) setKick(f *os.File) error {
	q.clearKick()
	if f == nil {
		return nil
	}
	if err := f.SetReadDeadline(time.Time{}); err != nil { // could not be stopped later
		f.Close()
		return fmt.Errorf("use kick descriptor: %w", err)
	}
	q.kick = f
	return nil
}

func (q *queue) clearKick() {
	if q.kick != nil {
		q.kick.Close()
		q.kick = nil
	}
}

// setCall replaces the eventfd that interrupts the driver. nil means that it polls.
func (q *queue) setCall(f *os.File) {
	q.callMu.Lock()
	defer q.callMu.Unlock()
	if q.call != nil {
		q.call.Close()
	}
	q.call = f
	if f != nil {
		// An interrupt that went to the old one may have been lost; one too many is harmless.
		q.interruptLocked()
	}
}

// interruptLocked interrupts the driver. It does not wait: a counter that is full has
// told the driver already.
func (q *queue) interruptLocked() {
	rc, err := q.call.SyscallConn()
	if err != nil {
		return
	}
	_ = rc.Control(func(fd uintptr) {
		_, _ = unix.Write(int(fd), binary.NativeEndian.AppendUint64(nil, 1))
	})
}

// close closes the eventfds of a stopped queue.
func (q *queue) close() {
	q.clearKick()
	q.setCall(nil)
}
