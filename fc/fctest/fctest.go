// Package fctest is a Firecracker that only answers: the same states, rules and words as
// the real one, over nothing. It remembers what it was asked and refuses what a test tells
// it to, and with a Guest it even has someone behind the vsock.
package fctest

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"sync"

	"banger/fc"
	"banger/fc/server"
)

// VMM is one Firecracker of make-believe. Set the fields before Serve.
type VMM struct {
	// ID is what the VMM says it is.
	ID string
	// OnStart, if not nil, is called for InstanceStart; its error refuses the start.
	OnStart func(context.Context, fc.VMConfig) error
	// Guest, if not nil, gets each connection that is made to the vsock socket, once it
	// said where it wants to go, and closes it. Without it there is no socket.
	Guest func(port uint32, conn net.Conn)

	// mu guards the fields that follow.
	mu      sync.Mutex
	events  []server.Event
	refused map[string]error
	vsock   net.Listener
}

// Serve answers on l until ctx ends, and closes l.
func (v *VMM) Serve(ctx context.Context, l net.Listener) error {
	s := server.New(server.Config{
		Machine: machine{v}, ID: v.ID, AppName: "Firecracker", Version: "1.14.4", Observe: v.observe,
	})
	err := s.Serve(ctx, l)
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.vsock != nil {
		v.vsock.Close()
	}
	return err
}

// Refuse makes every later request of method and path fail with err; nil ends that.
func (v *VMM) Refuse(method, path string, err error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.refused == nil {
		v.refused = make(map[string]error)
	}
	v.refused[method+" "+path] = err
}

// Events returns what was asked and answered so far, in order.
func (v *VMM) Events() []server.Event {
	v.mu.Lock()
	defer v.mu.Unlock()
	return append([]server.Event(nil), v.events...)
}

// Asked returns the requests so far as "METHOD /path", in order.
func (v *VMM) Asked() []string {
	var asked []string
	for _, e := range v.Events() {
		asked = append(asked, e.Method+" "+e.Path)
	}
	return asked
}

func (v *VMM) observe(e server.Event) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.events = append(v.events, e)
}

func (v *VMM) refusal(r fc.Request) error {
	method, path := r.Target()
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.refused[method+" "+path]
}

// listen opens the vsock socket in place of a former one.
func (v *VMM) listen(path string) error {
	if v.Guest == nil {
		return nil
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.vsock != nil {
		v.vsock.Close()
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return err
	}
	v.vsock = l
	go v.accept(l)
	return nil
}

// accept ends when l is closed.
func (v *VMM) accept(l net.Listener) {
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		go v.connect(conn)
	}
}

// connect reads the one line that asks for a port, and hands the connection on.
func (v *VMM) connect(conn net.Conn) {
	in := bufio.NewReaderSize(conn, 32)
	line, err := in.ReadString('\n')
	port, found := strings.CutPrefix(strings.TrimSuffix(line, "\n"), "CONNECT ")
	n, numErr := strconv.ParseUint(port, 10, 32)
	if err = errors.Join(err, numErr); err != nil || !found || in.Buffered() > 0 {
		conn.Close()
		return
	}
	if _, err := fmt.Fprintf(conn, "OK %d\n", 1<<30); err != nil {
		conn.Close()
		return
	}
	v.Guest(uint32(n), conn)
}

// machine is the server's side of a VMM.
type machine struct{ vmm *VMM }

// Prepare implements server.Machine.
func (m machine) Prepare(_ context.Context, r fc.Request) error {
	if err := m.vmm.refusal(r); err != nil {
		return err
	}
	switch r := r.(type) {
	case fc.Vsock:
		return m.vmm.listen(r.UDSPath)
	case fc.SnapshotLoad:
		return server.Unsupported("snapshots")
	}
	return nil
}

// Start implements server.Machine.
func (m machine) Start(ctx context.Context, config fc.VMConfig) error {
	if err := m.vmm.refusal(fc.Action{}); err != nil {
		return err
	}
	if m.vmm.OnStart == nil {
		return nil
	}
	return m.vmm.OnStart(ctx, config)
}

// Change implements server.Machine.
func (m machine) Change(_ context.Context, r fc.Request) error {
	if _, ok := r.(fc.SnapshotCreate); ok {
		return server.Unsupported("snapshots")
	}
	return m.vmm.refusal(r)
}

// BalloonStats implements server.Machine.
func (m machine) BalloonStats(context.Context) (fc.BalloonStats, error) {
	return fc.BalloonStats{}, nil
}
