package link

import "sync"

// A window counts the bytes that may be sent before the other side has taken
// what is under way.
type window struct {
	size int64

	// mu guards the fields that follow; changed is signalled at each change.
	mu      sync.Mutex
	changed *sync.Cond
	free    int64
	closed  bool
}

func newWindow(size int64) *window {
	w := &window{size: size, free: size}
	w.changed = sync.NewCond(&w.mu)
	return w
}

// take waits for room and returns how many of want bytes may be sent now. It
// returns zero when the window is closed.
func (w *window) take(want int) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	for w.free == 0 && !w.closed {
		w.changed.Wait()
	}
	if w.closed {
		return 0
	}
	n := min(int64(want), w.free)
	w.free -= n
	return int(n)
}

// give returns n bytes of room. It reports false when more comes back than was
// taken.
func (w *window) give(n int64) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if n > w.size-w.free {
		return false
	}
	w.free += n
	w.changed.Broadcast()
	return true
}

// close wakes all that wait for room.
func (w *window) close() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.closed = true
	w.changed.Broadcast()
}
