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
	jobs map[dbus.ObjectPath]chan string // results of jobs that are waited for
	done map[dbus.ObjectPath]string      // results that came before anybody waited
}

// Dial connects. The manager is asked to tell of jobs for as long as the
// connection stands.
func Dial(ctx context.Context) (*Manager, error) {
	conn, err := dbus.Dial(socket, dbus.WithContext(ctx))
	if err != nil {
		return nil, fmt.Errorf("connect to systemd: %w", err)
	}
	m := &Manager{conn: conn, jobs: make(map[dbus.ObjectPath]chan string), done: make(map[dbus.ObjectPath]string)}
	// Whoever connects directly says who he is, and nothing else: there is no bus to
	// greet.
	if err := conn.Auth([]dbus.Auth{dbus.AuthExternal("0")}); err != nil {
		return nil, errors.Join(fmt.Errorf("connect to systemd: %w", err), conn.Close())
	}
	signals := make(chan *dbus.Signal, 64)
	conn.Signal(signals)
	go m.hear(signals)
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
		m.mu.Lock()
		if c := m.jobs[job]; c != nil {
			c <- result
			delete(m.jobs, job)
		} else if len(m.done) < maxUnclaimed {
			m.done[job] = result
		}
		m.mu.Unlock()
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for job, c := range m.jobs {
		close(c)
		delete(m.jobs, job)
	}
	m.jobs = nil
}

// maxUnclaimed bounds the results that nobody has asked for: the manager tells of
// everybody's jobs.
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
	m.mu.Lock()
	clear(m.done)
	m.mu.Unlock()
	var job dbus.ObjectPath
	if err := m.object().CallWithContext(ctx, manager+"."+method, 0, unit, "replace").Store(&job); err != nil {
		return fmt.Errorf("%s %s: %w", method, unit, err)
	}
	result, err := m.await(ctx, job)
	if err != nil {
		return fmt.Errorf("%s %s: %w", method, unit, err)
	}
	if result != "done" {
		return fmt.Errorf("%s %s: job %s (see \"systemctl status %s\")", method, unit, result, unit)
	}
	return nil
}

var errClosed = errors.New("systemd has closed the connection")

// await waits for a job, which may be over already.
func (m *Manager) await(ctx context.Context, job dbus.ObjectPath) (string, error) {
	m.mu.Lock()
	if result, ok := m.done[job]; ok {
		m.mu.Unlock()
		return result, nil
	}
	if m.jobs == nil {
		m.mu.Unlock()
		return "", errClosed
	}
	c := make(chan string, 1)
	m.jobs[job] = c
	m.mu.Unlock()
	select {
	case result, ok := <-c:
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
