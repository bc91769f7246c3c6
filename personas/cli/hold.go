package cli

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"banger/personas/api"
)

// The waits between two tries to take hold again, which double. They never end: a
// daemon that comes up, whenever that is, deletes what nobody holds after a minute.
const firstRetry, lastRetry = 20 * time.Millisecond, time.Second

// hold keeps a VM alive that shall be gone when this process is, even by
// SIGKILL. The daemon may die and come back meanwhile: the running command does
// not notice, and the hold is taken again.
type hold struct {
	a      *app
	vm     string
	cancel context.CancelFunc
	wait   sync.WaitGroup

	// mu guards conn.
	mu   sync.Mutex
	conn net.Conn
}

// hold takes hold of a VM. The caller releases it.
func (a *app) hold(ctx context.Context, client *api.Client, vm string) (*hold, error) {
	conn, err := client.Hold(ctx, vm)
	if err != nil {
		return nil, fmt.Errorf("hold VM: %w", err)
	}
	// The hold outlives what cancels the command: it ends by release.
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	h := &hold{a: a, vm: vm, cancel: cancel, conn: conn}
	h.wait.Go(func() { h.keep(ctx) })
	return h, nil
}

// keep reads until the daemon is gone, and takes hold again.
func (h *hold) keep(ctx context.Context) {
	for {
		h.mu.Lock()
		conn := h.conn
		h.mu.Unlock()
		// The daemon sends nothing: whatever comes is the end.
		var b [1]byte
		_, _ = conn.Read(b[:])
		conn.Close()
		if ctx.Err() != nil || !h.again(ctx) {
			return
		}
	}
}

// again takes hold once more, and brings the daemon up where that is possible. It
// gives up when the VM is gone, or ctx is done.
func (h *hold) again(ctx context.Context) bool {
	for wait := firstRetry; ; wait = min(2*wait, lastRetry) {
		conn, err := h.try(ctx)
		if err == nil {
			h.mu.Lock()
			defer h.mu.Unlock()
			h.conn = conn
			if ctx.Err() != nil {
				conn.Close()
			}
			return true
		}
		var refused *api.Error
		if errors.As(err, &refused) && refused.Code == api.CodeNotFound {
			return false
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return false
		}
	}
}

func (h *hold) try(ctx context.Context) (net.Conn, error) {
	client, err := h.a.daemon(ctx)
	if err != nil {
		return nil, err
	}
	return client.Hold(ctx, h.vm)
}

// release lets go, after which the daemon deletes the VM if it is still there.
func (h *hold) release() {
	h.cancel()
	h.mu.Lock()
	h.conn.Close()
	h.mu.Unlock()
	h.wait.Wait()
}
