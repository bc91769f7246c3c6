package guest

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"
)

// A watch knows what a boot is at. What waits in the kernel has no deadline, and
// cannot tell that it waits.
type watch struct {
	// mu guards the fields that follow.
	mu    sync.Mutex
	steps []string // that have begun, and not ended; the first is the boot's own
	over  bool
	host  *host // nil as long as it is out of reach
	timer *time.Timer
}

// at says what the boot itself is at now.
func (w *watch) at(name string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.steps) == 0 {
		w.steps = append(w.steps, "")
	}
	w.steps[0] = name
}

// step begins what goes on beside that, and returns what ends it.
func (w *watch) step(name string) (end func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.steps = append(w.steps, name)
	return func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		if i := slices.Index(w.steps, name); i >= 0 {
			w.steps = slices.Delete(w.steps, i, i+1)
		}
	}
}

// tell says to whom a boot that hangs is told.
func (w *watch) tell(h *host) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.host = h
}

// begin has the watch look once, after limit, unless it is ended before.
func (w *watch) begin(limit time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.timer = time.AfterFunc(limit, func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		if w.over {
			return
		}
		err := fmt.Errorf("boot: after %v still at: %s%s", limit, strings.Join(w.steps, ", "), waits("/proc/self/task"))
		report(err)
		if w.host != nil {
			w.host.fail(err)
		}
	})
}

// end is for a boot that is over, one way or the other.
func (w *watch) end() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.over = true
	w.timer.Stop()
}

// waits tells where in the kernel those threads are that no signal would end.
func waits(tasks string) string {
	var b strings.Builder
	dirs, _ := filepath.Glob(tasks + "/*")
	for _, dir := range dirs {
		stat, err := os.ReadFile(filepath.Join(dir, "stat"))
		// The name, in parentheses, may hold anything.
		if err != nil || !bytes.HasPrefix(stat[bytes.LastIndexByte(stat, ')')+1:], []byte(" D")) {
			continue
		}
		stack, _ := os.ReadFile(filepath.Join(dir, "stack")) // few kernels have none
		fmt.Fprintf(&b, "; thread %s is in the kernel: %s", filepath.Base(dir), strings.Join(strings.Fields(string(stack)), " "))
	}
	return b.String()
}
