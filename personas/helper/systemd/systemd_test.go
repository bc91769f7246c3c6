package systemd

import (
	"bufio"
	"context"
	"errors"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/godbus/dbus/v5"
)

func newManager() *Manager {
	return &Manager{jobs: make(map[dbus.ObjectPath]chan string), done: make(map[dbus.ObjectPath]string)}
}

// The result of a job may come before its name does, and others ask meanwhile.
func TestResultBeforeItsJob(t *testing.T) {
	m := newManager()
	m.note("/job/0", "done") // somebody else's
	m.ask()
	m.note("/job/1", "failed")
	m.ask()
	m.note("/job/2", "done")
	two := m.claim("/job/2")
	m.ask()
	one, three := m.claim("/job/1"), m.claim("/job/3")
	m.note("/job/3", "canceled")
	for job, c := range map[string]<-chan string{"failed": one, "done": two, "canceled": three} {
		if got, err := m.await(t.Context(), "", c); got != job || err != nil {
			t.Errorf("got %q, %v; want %q", got, err, job)
		}
	}
	m.note("/job/4", "done")
	if m.asking != 0 || len(m.done)+len(m.jobs) != 0 {
		t.Errorf("%d ask, %v and %v are kept", m.asking, m.done, m.jobs)
	}
}

// A call that fails names no job, and leaves nothing.
func TestClaimOfNothing(t *testing.T) {
	m := newManager()
	m.ask()
	m.note("/job/1", "done")
	m.claim("")
	if m.asking != 0 || len(m.done)+len(m.jobs) != 0 {
		t.Errorf("%d ask, %v and %v are kept", m.asking, m.done, m.jobs)
	}
}

func TestResultsNobodyClaimsAreBounded(t *testing.T) {
	m := newManager()
	m.ask()
	for i := range 2 * maxUnclaimed {
		m.note(dbus.ObjectPath(rune(i)), "done")
	}
	if len(m.done) != maxUnclaimed {
		t.Errorf("%d are kept", len(m.done))
	}
}

func TestAwaitEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newManager()
		signals := make(chan *dbus.Signal)
		go m.hear(signals)
		m.ask()
		c := m.claim("/job/1")
		ctx, cancel := context.WithCancelCause(t.Context())
		gaveUp := errors.New("gave up")
		cancel(gaveUp)
		if _, err := m.await(ctx, "/job/1", c); !errors.Is(err, gaveUp) || len(m.jobs) != 0 {
			t.Errorf("error is %v, %v is kept", err, m.jobs)
		}
		m.ask()
		c = m.claim("/job/2")
		signals <- &dbus.Signal{Name: manager + ".JobRemoved", Body: []any{uint32(3), dbus.ObjectPath("/job/3"), "a.service", "done"}}
		signals <- &dbus.Signal{Name: manager + ".JobRemoved", Body: []any{"what is no job"}}
		close(signals) // as the connection does
		if _, err := m.await(t.Context(), "/job/2", c); !errors.Is(err, errClosed) {
			t.Errorf("error is %v", err)
		}
		m.ask()
		if _, err := m.await(t.Context(), "/job/4", m.claim("/job/4")); !errors.Is(err, errClosed) {
			t.Errorf("after the end, error is %v", err)
		}
	})
}

// listen serves a socket with attend, and returns its address.
func listen(t *testing.T, attend func(net.Conn)) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "private")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go attend(conn)
		}
	}()
	return "unix:path=" + path
}

func TestDialEndsWithItsContext(t *testing.T) {
	address := listen(t, func(net.Conn) {}) // and nothing is ever said
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := dial(ctx, address); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
}

// admit lets a client in, and says nothing further.
func admit(conn net.Conn) {
	r := bufio.NewReader(conn)
	for {
		line, err := r.ReadString('\n')
		switch {
		case err != nil, strings.HasPrefix(line, "BEGIN"):
			return
		case strings.Contains(line, "AUTH EXTERNAL"):
			conn.Write([]byte("OK 0123\r\n"))
		case strings.Contains(line, "AUTH"):
			conn.Write([]byte("REJECTED EXTERNAL\r\n"))
		default:
			conn.Write([]byte("AGREE_UNIX_FD\r\n"))
		}
	}
}

func TestConnectionOutlivesContextOfDial(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	m, err := dial(ctx, listen(t, admit))
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	time.Sleep(10 * time.Millisecond)
	if !m.Connected() {
		t.Error("the connection ends with the context of Dial")
	}
	if err := m.Close(); err != nil {
		t.Error(err)
	}
}
