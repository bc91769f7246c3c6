// Package systemd asks systemd to start units. It speaks to the manager's own
// socket, which only root can open, so that no bus has to run.
package systemd

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/godbus/dbus/v5"
)

// socket is the manager's own.
const socket = "unix:path=/run/systemd/private"

const (
	manager = "org.freedesktop.systemd1.Manager"
	path    = dbus.ObjectPath("/org/freedesktop/systemd1")
)

// Manager is a connection to systemd. It is safe for concurrent use.
type Manager struct {
	conn *dbus.Conn

	mu   sync.Mutex
	jobs map[dbus.ObjectPath]chan string // results of jobs that are waited for; nil when the connection is gone
	// asking counts who has asked for a job and does not know its name yet, and done has
	// the results that have come since the first of them.
	asking int
	done   map[dbus.ObjectPath]string
}

// Dial connects. Whoever does so directly hears of jobs for as long as the
// connection stands, which ctx does not bound: it bounds the wait for it.
func Dial(ctx context.Context) (*Manager, error) { return dial(ctx, socket) }

func dial(ctx context.Context, address string) (*Manager, error) {
	whole, hangUp := context.WithCancel(context.WithoutCancel(ctx))
	stands := context.AfterFunc(ctx, hangUp)
	conn, err := dbus.Dial(address, dbus.WithContext(whole))
	if err != nil {
		hangUp()
		return nil, fmt.Errorf("connect to systemd: %w", err)
	}
	m := &Manager{conn: conn, jobs: make(map[dbus.ObjectPath]chan string), done: make(map[dbus.ObjectPath]string)}
	// Before anything can end the connection, which ends hear, too.
	signals := make(chan *dbus.Signal, 64)
	conn.Signal(signals)
	go m.hear(signals)
	// Whoever connects directly says who he is, and nothing else: there is no bus to
	// greet.
	err = conn.Auth([]dbus.Auth{dbus.AuthExternal("0")})
	if !stands() {
		err = context.Cause(ctx)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("connect to systemd: %w", err), conn.Close())
	}
	return m, nil
}

// Connected reports whether the connection stands.
func (m *Manager) Connected() bool { return m.conn.Connected() }

// Close ends the connection; who waits for a job gets an error.
func (m *Manager) Close() error { return m.conn.Close() }

// hear notes the results of jobs.
func (m *Manager) hear(signals <-chan *dbus.Signal) {
	for s := range signals {
		if s.Name != manager+".JobRemoved" || len(s.Body) != 4 {
			continue
		}
		job, ok := s.Body[1].(dbus.ObjectPath)
		result, ok2 := s.Body[3].(string)
		if !ok || !ok2 {
			continue
		}
		m.note(job, result)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for job, c := range m.jobs {
		close(c)
		delete(m.jobs, job)
	}
	m.jobs = nil
}

// note gives the result of a job to who waits for it, or may in a moment. The
// manager tells of everybody's jobs.
func (m *Manager) note(job dbus.ObjectPath, result string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if c := m.jobs[job]; c != nil {
		c <- result
		delete(m.jobs, job)
	} else if m.asking > 0 && len(m.done) < maxUnclaimed {
		m.done[job] = result
	}
}

// maxUnclaimed bounds the results that nobody has claimed.
const maxUnclaimed = 1024

// Start starts a unit and returns when systemd says that it has started. An error
// that is no context's says what became of the job, such as "failed".
func (m *Manager) Start(ctx context.Context, unit string) error {
	return m.job(ctx, "StartUnit", unit)
}

// Stop stops a unit and returns when it has stopped.
func (m *Manager) Stop(ctx context.Context, unit string) error {
	return m.job(ctx, "StopUnit", unit)
}

// Property is a setting of a unit, such as MemoryMax.
type Property struct {
	Name  string
	Value any
}

// SetProperties sets properties of a unit, until the host goes down or Revert takes
// them back.
func (m *Manager) SetProperties(ctx context.Context, unit string, properties []Property) error {
	type wire struct {
		Name  string
		Value dbus.Variant
	}
	list := make([]wire, len(properties))
	for i, p := range properties {
		list[i] = wire{p.Name, dbus.MakeVariant(p.Value)}
	}
	call := m.object().CallWithContext(ctx, manager+".SetUnitProperties", 0, unit, true, list)
	if call.Err != nil {
		return fmt.Errorf("set properties of %s: %w", unit, call.Err)
	}
	return nil
}

// Revert takes back what SetProperties has set. It is no error if there is nothing.
func (m *Manager) Revert(ctx context.Context, unit string) error {
	call := m.object().CallWithContext(ctx, manager+".RevertUnitFiles", 0, []string{unit})
	if call.Err != nil {
		return fmt.Errorf("revert properties of %s: %w", unit, call.Err)
	}
	return nil
}

func (m *Manager) object() dbus.BusObject { return m.conn.Object("org.freedesktop.systemd1", path) }

func (m *Manager) job(ctx context.Context, method, unit string) error {
	m.ask()
	var job dbus.ObjectPath
	err := m.object().CallWithContext(ctx, manager+"."+method, 0, unit, "replace").Store(&job)
	done := m.claim(job)
	if err != nil {
		return fmt.Errorf("%s %s: %w", method, unit, err)
	}
	result, err := m.await(ctx, job, done)
	if err != nil {
		return fmt.Errorf("%s %s: %w", method, unit, err)
	}
	if result != "done" {
		return fmt.Errorf("%s %s: job %s (see \"systemctl status %s\")", method, unit, result, unit)
	}
	return nil
}

var errClosed = errors.New("systemd has closed the connection")

// ask says that somebody asks for a job, whose result may come before its name.
// He must claim it.
func (m *Manager) ask() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.asking++
}

// claim returns where the result of job comes, or has come; of no job, nowhere. It
// is closed if nothing can come any more.
func (m *Manager) claim(job dbus.ObjectPath) <-chan string {
	m.mu.Lock()
	defer m.mu.Unlock()
	c := make(chan string, 1)
	result, over := m.done[job]
	switch {
	case over:
		c <- result
		delete(m.done, job)
	case m.jobs == nil:
		close(c)
	case job != "":
		m.jobs[job] = c
	}
	if m.asking--; m.asking == 0 {
		clear(m.done)
	}
	return c
}

// await waits for the result of a job.
func (m *Manager) await(ctx context.Context, job dbus.ObjectPath, done <-chan string) (string, error) {
	select {
	case result, ok := <-done:
		if !ok {
			return "", errClosed
		}
		return result, nil
	case <-ctx.Done():
		m.mu.Lock()
		delete(m.jobs, job)
		m.mu.Unlock()
		return "", context.Cause(ctx)
	}
}
