// Package unit starts VMMs as instances of a static systemd unit, which outlive
// the helper and have rights that the helper lacks: to build a jail takes more
// than to ask for one.
//
// The unit's process gets nothing by its command line but the VM's id. It asks
// the helper, over a socket that is root's alone, for the jail that it shall build
// and for the descriptors that go into it; builds it, says where, and leaves the
// VMM behind as the unit's main process.
package unit

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"banger/fc/jail"
	"banger/personas"
	"banger/personas/helper/systemd"
)

// Manager starts units: package systemd has the real one.
type Manager interface {
	Start(ctx context.Context, unit string) error
	Stop(ctx context.Context, unit string) error
	SetProperties(ctx context.Context, unit string, properties []systemd.Property) error
	Revert(ctx context.Context, unit string) error
	Connected() bool
	Close() error
}

// Launcher hands jails to the units that it starts.
type Launcher struct {
	// Dial connects to systemd, when that is needed. The context bounds the wait for
	// it, and not the connection.
	Dial func(ctx context.Context) (Manager, error)
	// Name is the unit of a VM.
	Name func(id string) string

	listener *net.UnixListener

	// dialing holds one token over a Dial. Whoever has it may change manager.
	dialing chan struct{}
	manager Manager

	// mu guards the fields that follow.
	mu       sync.Mutex
	pending  map[string]*order // by the VM's id
	starting map[string]int    // jobs that systemd has not finished, by the VM's id
}

// order is a jail that a unit shall build.
type order struct {
	spec  *jail.Spec
	limit func() error // sets what the unit may use
	path  chan string  // of the jail, once it stands
	fail  chan error
	done  chan struct{} // closed once nobody looks at spec any more
}

// Listen serves the socket at path, which is made anew, mode 0600, until ctx is
// done.
func (l *Launcher) Listen(ctx context.Context, path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("listen for VM units: %w", err)
	}
	mask := unix.Umask(0o177)
	listener, err := net.ListenUnix("unixpacket", &net.UnixAddr{Name: path, Net: "unixpacket"})
	unix.Umask(mask)
	if err != nil {
		return fmt.Errorf("listen for VM units: %w", err)
	}
	l.dialing = make(chan struct{}, 1)
	l.listener, l.pending, l.starting = listener, make(map[string]*order), make(map[string]int)
	context.AfterFunc(ctx, func() { listener.Close() })
	go l.serve()
	return nil
}

func (l *Launcher) serve() {
	for {
		conn, err := l.listener.AcceptUnix()
		if err != nil {
			return
		}
		go func() {
			defer conn.Close()
			l.attend(conn)
		}()
	}
}

// attend serves one unit's process.
func (l *Launcher) attend(conn *net.UnixConn) {
	conn.SetDeadline(time.Now().Add(buildTimeout))
	if uid, err := personas.PeerUID(conn); err != nil || uid != 0 {
		return
	}
	id := make([]byte, 64)
	n, err := conn.Read(id)
	if err != nil {
		return
	}
	o := l.take(string(id[:n]))
	if o == nil {
		return
	}
	defer close(o.done)
	if err := send(conn, o.spec); err != nil {
		o.fail <- err
		return
	}
	// Not before the unit is there: systemd would make all of its cgroup, and then
	// again when it starts. No guest begins before Start has returned.
	if err := o.limit(); err != nil {
		o.fail <- err
		return
	}
	var answer answer
	text := make([]byte, maxMessage)
	n, err = conn.Read(text)
	if err == nil {
		err = json.Unmarshal(text[:n], &answer)
	}
	switch {
	case err != nil:
		o.fail <- fmt.Errorf("read from VM unit: %w", err)
	case answer.Error != "":
		o.fail <- errors.New(answer.Error)
	default:
		o.path <- answer.Jail
	}
}

// buildTimeout is the longest that a unit may take to build a jail and start its
// VMM.
const buildTimeout = time.Minute

func (l *Launcher) take(id string) *order {
	l.mu.Lock()
	defer l.mu.Unlock()
	o := l.pending[id]
	delete(l.pending, id)
	return o
}

// Start starts the unit of the VM and returns its VMM, which is no child of ours.
// The files of s are needed until then, and remain the caller's.
func (l *Launcher) Start(ctx context.Context, s *jail.Spec) (*jail.Process, error) {
	m, err := l.connect(ctx)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, buildTimeout)
	defer cancel()
	o := &order{spec: s, path: make(chan string, 1), fail: make(chan error, 1), done: make(chan struct{})}
	o.limit = func() error {
		if p := limits(s.Limits); len(p) > 0 {
			return m.SetProperties(ctx, l.Name(s.ID), p)
		}
		return nil
	}
	l.mu.Lock()
	l.pending[s.ID] = o
	l.starting[s.ID]++
	l.mu.Unlock()
	defer func() {
		if l.take(s.ID) == nil {
			<-o.done // a unit has asked for it
		}
	}()
	job := make(chan error, 1)
	go func() {
		// The VMM may be there, and be gone again, before the job is done.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), buildTimeout)
		defer cancel()
		job <- m.Start(ctx, l.Name(s.ID))
		l.mu.Lock()
		defer l.mu.Unlock()
		if l.starting[s.ID]--; l.starting[s.ID] == 0 {
			delete(l.starting, s.ID)
		}
	}()
	path, err := o.result(ctx, job)
	var p *jail.Process
	if err == nil {
		p, err = jail.Adopt(ctx, path)
	}
	if err != nil {
		// Whatever its process has come to, the unit is to be as if it had never run.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTimeout)
		defer cancel()
		return nil, errors.Join(err, m.Stop(ctx, l.Name(s.ID)))
	}
	return p, nil
}

// stopTimeout bounds the end of a unit that did not start.
const stopTimeout = 40 * time.Second

// limits are a VMM's as properties of its unit.
func limits(l jail.Limits) (p []systemd.Property) {
	if l.MemoryBytes > 0 {
		p = append(p, systemd.Property{Name: "MemoryMax", Value: l.MemoryBytes})
	}
	if l.CPUs > 0 {
		p = append(p, systemd.Property{Name: "CPUQuotaPerSecUSec", Value: uint64(l.CPUs) * uint64(time.Second/time.Microsecond)})
	}
	return p
}

// Forget takes back what was set for the VM's unit, once its VMM has ended. If that
// was before systemd had seen it, the unit would wait for a main process, and the next
// start for the unit.
func (l *Launcher) Forget(ctx context.Context, id string) error {
	m, err := l.connect(ctx)
	if err != nil {
		return err
	}
	l.mu.Lock()
	starting := l.starting[id] > 0
	l.mu.Unlock()
	if starting {
		err = m.Stop(ctx, l.Name(id))
	}
	return errors.Join(err, m.Revert(ctx, l.Name(id)))
}

// result waits for what the unit's process says, or for a job that fails without a
// word from it.
func (o *order) result(ctx context.Context, job <-chan error) (path string, err error) {
	for {
		select {
		case path := <-o.path:
			return path, nil
		case err := <-o.fail:
			return "", err
		case err := <-job:
			if err != nil {
				return "", err
			}
			job = nil // the process has said something, or its connection ends
		case <-ctx.Done():
			return "", fmt.Errorf("wait for VM unit: %w", context.Cause(ctx))
		}
	}
}

// connect returns the connection to systemd, a new one if there is none.
func (l *Launcher) connect(ctx context.Context) (Manager, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTime)
	defer cancel()
	select {
	case l.dialing <- struct{}{}:
		defer func() { <-l.dialing }()
	case <-ctx.Done():
		return nil, fmt.Errorf("connect to systemd: %w", context.Cause(ctx))
	}
	if l.manager != nil && l.manager.Connected() {
		return l.manager, nil
	}
	if l.manager != nil { // systemd was executed anew
		_ = l.manager.Close()
		l.manager = nil
	}
	m, err := l.Dial(ctx)
	if err != nil {
		return nil, err
	}
	l.manager = m
	return m, nil
}

// dialTime bounds the wait for a connection to systemd.
const dialTime = 10 * time.Second

// maxMessage bounds what the two say to each other, in bytes.
const maxMessage = 32 << 10

// decode reads what is root's own word; unknown keys show that the binary was
// replaced by a different one in between.
func decode(data []byte, v any) error {
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	return d.Decode(v)
}
