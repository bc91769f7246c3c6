package agent_test

import (
	"bytes"
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"banger/personas/guest/agent"
	"banger/personas/guest/link"
	"banger/personas/guest/link/frame"
)

// socketPair returns two connected sockets, as the VMM makes of a connection.
func socketPair(t *testing.T) (a, b net.Conn) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	var conns [2]net.Conn
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "socket")
		conns[i], err = net.FileConn(f)
		f.Close()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conns[i].Close() })
	}
	return conns[0], conns[1]
}

// dial returns a connection that an agent serves. The test waits for its end.
func dial(t *testing.T, config agent.Config) net.Conn {
	t.Helper()
	client, server := socketPair(t)
	done := make(chan struct{})
	go func() {
		defer close(done)
		agent.New(config).Handle(context.Background(), server)
	}()
	t.Cleanup(func() {
		client.Close()
		select {
		case <-done:
		case <-time.After(20 * time.Second):
			t.Error("the agent does not end after its client")
		}
	})
	return client
}

func limited(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func TestStats(t *testing.T) {
	s, err := link.Query(limited(t), dial(t, agent.Config{Version: "v1"}))
	if err != nil {
		t.Fatal(err)
	}
	if s.Version != "v1" || s.BootID == "" || s.UptimeNanos <= 0 || s.MemAvailableBytes == 0 ||
		s.MemAvailableBytes > s.MemTotalBytes || s.DiskTotalBytes < s.DiskFreeBytes || s.Processes == 0 {
		t.Fatalf("stats make no sense: %+v", s)
	}
}

func TestShutdownAnswersThenEnds(t *testing.T) {
	asked := make(chan link.ShutdownRequest, 1)
	conn := dial(t, agent.Config{Shutdown: func(r link.ShutdownRequest) error { asked <- r; return nil }})
	if err := link.Shutdown(limited(t), conn, link.ShutdownRequest{GraceSeconds: 7}); err != nil {
		t.Fatal(err)
	}
	if r := <-asked; r.GraceSeconds != 7 || r.Force {
		t.Fatalf("asked for %+v", r)
	}
}

func TestShutdownIsRefusedWhereNothingEnds(t *testing.T) {
	err := link.Shutdown(limited(t), dial(t, agent.Config{}), link.ShutdownRequest{})
	var failure *link.Failure
	if !errors.As(err, &failure) || !strings.Contains(err.Error(), "not possible") {
		t.Fatalf("got %v", err)
	}
}

func TestUnknownRequestsAreRefused(t *testing.T) {
	for name, payload := range map[string]string{
		"unknown kind":    `{"explode":{}}`,
		"no kind":         `{}`,
		"two kinds":       `{"stats":{},"shutdown":{}}`,
		"unknown field":   `{"exec":{"args":["dHJ1ZQ=="],"sudo":true}}`,
		"no command":      `{"exec":{"args":[]}}`,
		"two documents":   `{"stats":{}}{"stats":{}}`,
		"not JSON":        `stats`,
		"escaping source": `{"copy_in":{"dest":"L3g=","sources":[{"name":"Li4="}]}}`,
	} {
		t.Run(name, func(t *testing.T) {
			conn := dial(t, agent.Config{})
			if err := conn.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
				t.Fatal(err)
			}
			if err := frame.NewWriter(conn).Write(frame.Request, []byte(payload)); err != nil {
				t.Fatal(err)
			}
			kind, _, err := frame.NewReader(conn).Next()
			if err != nil || kind != frame.Failed {
				t.Fatalf("got frame %#x, %v", kind, err)
			}
		})
	}
}

func TestServeRefusesTheOneTooMany(t *testing.T) {
	ctx, cancel := context.WithCancel(limited(t))
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "agent"))
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- agent.New(agent.Config{}).Serve(ctx, l) }()
	connect := func() net.Conn {
		conn, err := net.Dial("unix", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		return conn
	}
	for range 256 {
		connect()
	}
	_, err = link.Query(ctx, connect())
	if err == nil || !strings.Contains(err.Error(), "busy") {
		t.Fatalf("request 257: got %v", err)
	}
	cancel()
	if err := <-served; err != nil {
		t.Fatalf("serve ends with %v", err)
	}
}

// poor is a listener that lacks something first.
type poor struct {
	net.Listener
	lacks []error
}

func (l *poor) Accept() (net.Conn, error) {
	if len(l.lacks) == 0 {
		return l.Listener.Accept()
	}
	err := l.lacks[0]
	l.lacks = l.lacks[1:]
	return nil, &net.OpError{Op: "accept", Net: "vsock", Err: os.NewSyscallError("accept4", err)}
}

func TestServeOutlivesWant(t *testing.T) {
	ctx, cancel := context.WithCancel(limited(t))
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "agent"))
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() {
		served <- agent.New(agent.Config{}).Serve(ctx, &poor{l, []error{unix.EMFILE, unix.ENFILE, unix.ENOMEM, unix.ENOBUFS}})
	}()
	conn, err := net.Dial("unix", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := link.Query(ctx, conn); err != nil {
		t.Error(err)
	}
	cancel()
	if err := <-served; err != nil {
		t.Fatalf("serve ends with %v", err)
	}
}

func TestCopyThroughTheAgent(t *testing.T) {
	from, guest, back := t.TempDir(), t.TempDir(), t.TempDir()
	content := bytes.Repeat([]byte("0123456789abcdef"), 1<<16)
	if err := os.WriteFile(filepath.Join(from, "file"), content, 0o640); err != nil {
		t.Fatal(err)
	}
	ctx := limited(t)
	err := link.CopyIn(ctx, dial(t, agent.Config{}), []string{filepath.Join(from, "file")}, guest+"/", link.CopyOptions{})
	if err != nil {
		t.Fatal(err)
	}
	err = link.CopyOut(ctx, dial(t, agent.Config{}), []string{filepath.Join(guest, "file")}, filepath.Join(back, "copy"), link.CopyOptions{})
	if err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(filepath.Join(back, "copy"))
	if err != nil || !bytes.Equal(got, content) {
		t.Fatalf("%d bytes came back, %v", len(got), err)
	}
}

func TestCopyErrors(t *testing.T) {
	dir := t.TempDir()
	ctx := limited(t)
	// So much that the sender still writes when the receiver refuses.
	big := filepath.Join(dir, "big")
	if err := os.WriteFile(big, make([]byte, 8<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	err := link.CopyIn(ctx, dial(t, agent.Config{}), []string{big}, filepath.Join(dir, "missing/dir/file"), link.CopyOptions{})
	var failure *link.Failure
	if !errors.As(err, &failure) || !strings.Contains(err.Error(), "no such file") {
		t.Errorf("copy to a missing directory: %v", err)
	}
	err = link.CopyIn(ctx, dial(t, agent.Config{}), []string{filepath.Join(dir, "nothing")}, dir, link.CopyOptions{})
	if !errors.Is(err, os.ErrNotExist) {
		t.Errorf("copy of a missing file: %v", err)
	}
	err = link.CopyOut(ctx, dial(t, agent.Config{}), []string{filepath.Join(dir, "no\x1bthing")}, dir, link.CopyOptions{})
	if !errors.As(err, &failure) || strings.ContainsRune(err.Error(), 0x1b) {
		t.Errorf("copy of a missing file out: %q", err)
	}
}
