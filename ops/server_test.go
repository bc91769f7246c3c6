package ops

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// serve starts a server whose operations do nothing but what change says, and
// returns the path of its socket and its log.
func serve(t *testing.T, change func(*Server)) (string, *logBuffer) {
	t.Helper()
	log := &logBuffer{}
	s := newServer(log, change)
	path := filepath.Join(t.TempDir(), "helper.sock")
	l, err := net.ListenUnix("unixpacket", &net.UnixAddr{Name: path, Net: "unixpacket"})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	return path, log
}

func newServer(log *logBuffer, change func(*Server)) *Server {
	s := &Server{
		Log:       slog.New(slog.NewTextHandler(log, nil)),
		Authorise: func(*unix.Ucred) error { return nil },
		Vet:       func(int) error { return nil },
	}
	nothing := func(context.Context, *Call, None) (None, []*os.File, error) { return None{}, nil, nil }
	memfd := func(context.Context, *Call, None) (None, []*os.File, error) {
		f, err := os.Open("/dev/null")
		return None{}, []*os.File{f}, err
	}
	if change != nil {
		change(s)
	}
	bindUnbound(s, Hello, func(context.Context, *Call, None) (HelloReply, []*os.File, error) {
		return HelloReply{Version: "test"}, nil, nil
	})
	bindUnbound(s, Inventory, memfd)
	bindUnbound(s, Reconcile, memfd)
	bindUnbound(s, VMReserve, func(context.Context, *Call, None) (VMReserveReply, []*os.File, error) {
		return VMReserveReply{}, nil, nil
	})
	bindUnbound(s, VMStart, func(context.Context, *Call, VMStartArgs) (VMStartReply, []*os.File, error) {
		return VMStartReply{}, nil, nil
	})
	bindUnbound(s, VMSeal, func(context.Context, *Call, HandleArgs) (None, []*os.File, error) { return None{}, nil, nil })
	bindUnbound(s, VMReconnect, func(context.Context, *Call, HandleArgs) (VMStartReply, []*os.File, error) {
		return VMStartReply{}, nil, nil
	})
	bindUnbound(s, VMStop, func(context.Context, *Call, HandleArgs) (None, []*os.File, error) { return None{}, nil, nil })
	bindUnbound(s, VMRelease, func(context.Context, *Call, HandleArgs) (None, []*os.File, error) { return None{}, nil, nil })
	bindUnbound(s, KernelPut, func(context.Context, *Call, KernelPutArgs) (KernelPutReply, []*os.File, error) {
		return KernelPutReply{}, nil, nil
	})
	bindUnbound(s, Resolver, nothing)
	return s
}

// logBuffer is a log that is read while it is written.
type logBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *logBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *logBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

func bindUnbound[A Args, R any](s *Server, op *Op[A, R], h func(context.Context, *Call, A) (R, []*os.File, error)) {
	if s.bound[op.Name] == nil {
		Bind(s, op, h)
	}
}

func dial(t *testing.T, path string) *net.UnixConn {
	t.Helper()
	conn, err := net.DialUnix("unixpacket", nil, &net.UnixAddr{Name: path, Net: "unixpacket"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(10 * time.Second))
	return conn
}

// ask sends raw bytes and returns the raw reply; nil when the server hung up.
func ask(t *testing.T, conn *net.UnixConn, msg []byte, fds ...int) []byte {
	t.Helper()
	var oob []byte
	if len(fds) > 0 {
		oob = unix.UnixRights(fds...)
	}
	if _, _, err := conn.WriteMsgUnix(msg, oob, nil); err != nil {
		return nil
	}
	buf := make([]byte, 1<<16)
	n, err := conn.Read(buf)
	if err != nil || n == 0 {
		return nil
	}
	return buf[:n]
}

func TestCallReachesHandler(t *testing.T) {
	path, log := serve(t, func(s *Server) {
		Bind(s, VMStop, func(_ context.Context, call *Call, a HandleArgs) (None, []*os.File, error) {
			if call.ID != "req-1" || !strings.HasPrefix(a.Handle, "00ff") {
				return None{}, nil, fmt.Errorf("got %q, %+v", call.ID, a)
			}
			return None{}, nil, &Error{Code: Conflict, Message: "it is busy", HintText: "wait"}
		})
	})
	ctx := WithRequestID(t.Context(), "req-1")
	_, _, err := VMStop.Call(ctx, NewClient(path), HandleArgs{Handle: "00ff" + strings.Repeat("0", 28)})
	var e *Error
	if !errors.As(err, &e) || e.Code != Conflict || e.HintText != "wait" || !errors.Is(err, &Error{Code: Conflict}) {
		t.Fatalf("got %v, want the handler's refusal", err)
	}
	if !strings.Contains(log.String(), "op=VMStop request=req-1") {
		t.Fatalf("no audit line in %s", log)
	}
}

// TestExpectedRefusalIsNoWarning: of a kernel that the helper has yet to be given,
// and of nothing else.
func TestExpectedRefusalIsNoWarning(t *testing.T) {
	for code, want := range map[Code]string{NotFound: "level=INFO", Conflict: "level=WARN"} {
		path, log := serve(t, func(s *Server) {
			Bind(s, VMStop, func(context.Context, *Call, HandleArgs) (None, []*os.File, error) {
				return None{}, nil, &Error{Code: code, Message: "no"}
			})
		})
		_, _, err := VMStop.Call(t.Context(), NewClient(path), HandleArgs{Handle: strings.Repeat("0", 32)})
		if !errors.Is(err, &Error{Code: code}) {
			t.Errorf("%s: got %v", code, err)
		}
		if !strings.Contains(log.String(), want+` msg="op refused"`) {
			t.Errorf("%s: want %s in %s", code, want, log)
		}
	}
}

// Abuse 12 and 15: every malformed message is answered or dropped, and the next
// client is served.
func TestHostileMessagesAreRefused(t *testing.T) {
	path, _ := serve(t, nil)
	handle := strings.Repeat("a", 32)
	for name, msg := range map[string][]byte{
		"empty":             {},
		"junk":              bytes.Repeat([]byte{0xff}, 100),
		"limit and one":     bytes.Repeat([]byte{' '}, MaxRequest+1),
		"huge":              bytes.Repeat([]byte{'{'}, 100_000),
		"wrong version":     []byte(`{"v":9,"id":"a","op":"Hello","args":{}}`),
		"unknown op":        []byte(`{"v":1,"id":"a","op":"Root","args":{}}`),
		"op of another day": []byte(`{"v":1,"id":"a","op":"hello","args":{}}`),
		"no id":             []byte(`{"v":1,"id":"","op":"Hello","args":{}}`),
		"id of nobody":      []byte(`{"v":1,"id":"-","op":"Hello","args":{}}`),
		"newline in id":     []byte(`{"v":1,"id":"a\nop=VMStop","op":"Hello","args":{}}`),
		"long id":           []byte(`{"v":1,"id":"` + strings.Repeat("a", 65) + `","op":"Hello","args":{}}`),
		"no args":           []byte(`{"v":1,"id":"a","op":"VMStop"}`),
		"args of another":   []byte(`{"v":1,"id":"a","op":"VMStop","args":{"digest":"` + handle + `"}}`),
		"handle with path":  []byte(`{"v":1,"id":"a","op":"VMStop","args":{"handle":"../../../../../etc/shadow......"}}`),
		"handle upper case": []byte(`{"v":1,"id":"a","op":"VMStop","args":{"handle":"` + strings.ToUpper(handle) + `"}}`),
		"pid for a handle":  []byte(`{"v":1,"id":"a","op":"VMStop","args":{"handle":1}}`),
		"extra argument":    []byte(`{"v":1,"id":"a","op":"VMStop","args":{"handle":"` + handle + `","uid":0}}`),
	} {
		conn := dial(t, path)
		if got := ask(t, conn, msg); got != nil && !bytes.Contains(got, []byte(`"err"`)) {
			t.Errorf("%s: accepted: %s", name, got)
		}
		conn.Close()
	}
	if _, _, err := Hello.Call(t.Context(), NewClient(path), None{}); err != nil {
		t.Fatalf("server is gone after hostile messages: %v", err)
	}
}

// Abuse 7: descriptors where none belong, too few, too many: refused, and closed.
func TestWrongNumberOfDescriptorsIsRefusedAndClosed(t *testing.T) {
	path, _ := serve(t, nil)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	fd := int(w.Fd())
	many := make([]int, 253)
	for i := range many {
		many[i] = fd
	}
	d := strings.Repeat("a", 64)
	start := []byte(`{"v":1,"id":"a","op":"VMStart","args":{"handle":"` + d[:32] + `","kernel":"` + d + `","initrd":"` + d + `","vmm":"qemu","net":"none"}}`)
	hello := []byte(`{"v":1,"id":"a","op":"Hello","args":{}}`)
	for range 50 {
		for name, c := range map[string]struct {
			msg []byte
			fds []int
		}{
			"none of one":   {start, nil},
			"five of four":  {start, many[:5]},
			"253":           {start, many},
			"one of none":   {hello, many[:1]},
			"253 and hello": {hello, many},
		} {
			conn := dial(t, path)
			if got := ask(t, conn, c.msg, c.fds...); got != nil && !bytes.Contains(got, []byte(`"err"`)) {
				t.Fatalf("%s: accepted: %s", name, got)
			}
			conn.Close()
		}
	}
	w.Close()
	// The read end sees the end of file only when every copy is closed.
	r.SetReadDeadline(time.Now().Add(10 * time.Second))
	if _, err := r.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("some descriptors are still open: %v", err)
	}
}

// The same id is the same request: calls that were given none share none.
func TestCallsWithoutIDHaveTheirOwn(t *testing.T) {
	var seen sync.Map
	path, _ := serve(t, func(s *Server) {
		Bind(s, VMReserve, func(_ context.Context, call *Call, _ None) (VMReserveReply, []*os.File, error) {
			if _, again := seen.LoadOrStore(call.ID, true); again || len(call.ID) < 20 {
				return VMReserveReply{}, nil, fmt.Errorf("id %q, again: %t", call.ID, again)
			}
			return VMReserveReply{}, nil, nil
		})
	})
	c := NewClient(path)
	for range 50 {
		if _, _, err := VMReserve.Call(t.Context(), c, None{}); err != nil {
			t.Fatal(err)
		}
	}
}

// A helper that ends before it has answered, to be started anew, is asked once more: for
// the same.
func TestRequestWithoutAnswerIsRepeatedOnce(t *testing.T) {
	for _, dies := range []int{1, 2} {
		path := filepath.Join(t.TempDir(), "helper.sock")
		l, err := net.ListenUnix("unixpacket", &net.UnixAddr{Name: path, Net: "unixpacket"})
		if err != nil {
			t.Fatal(err)
		}
		var asked []string
		done := make(chan struct{})
		go func() {
			defer close(done)
			for {
				conn, err := l.AcceptUnix()
				if err != nil {
					return
				}
				data, fds, err := receive(conn, MaxRequest, MaxFilesIn)
				if err == nil {
					asked = append(asked, fmt.Sprintf("%s with %d", data, len(fds)))
				}
				closeFDs(fds)
				if len(asked) > dies {
					send(conn, &reply{V: Version, OK: []byte(`{"have":true}`)}, nil, MaxReply)
				}
				conn.Close()
			}
		}()
		null, err := os.Open(os.DevNull)
		if err != nil {
			t.Fatal(err)
		}
		_, _, err = KernelPut.Call(t.Context(), NewClient(path), KernelPutArgs{Digest: strings.Repeat("a", 64)}, null)
		null.Close()
		l.Close()
		<-done
		if (err == nil) != (dies == 1) {
			t.Errorf("it ended %d times: %v", dies, err)
		}
		if len(asked) != 2 || asked[0] != asked[1] || !strings.HasSuffix(asked[0], "with 1") {
			t.Errorf("it ended %d times, and was asked %q", dies, asked)
		}
	}
}

// Abuse 8: a foreigner is turned away before he has said anything.
func TestForeignerIsTurnedAway(t *testing.T) {
	path, log := serve(t, func(s *Server) {
		s.Authorise = func(c *unix.Ucred) error { return fmt.Errorf("uid %d is not the owner", c.Uid) }
	})
	conn := dial(t, path)
	if n, err := conn.Read(make([]byte, 1)); n != 0 {
		t.Fatalf("got an answer: %v", err)
	}
	if !strings.Contains(log.String(), "refuse connection") {
		t.Fatalf("no audit line in %q", log)
	}
}

// Abuse 13: those who connect and say nothing do not keep others out for long.
func TestSilentConnectionsAreDropped(t *testing.T) {
	path, _ := serve(t, nil)
	for range maxConns {
		dial(t, path)
	}
	deadline := time.Now().Add(idleTimeout + 5*time.Second)
	for {
		_, _, err := Hello.Call(t.Context(), NewClient(path), None{})
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("nobody is served any more: %v", err)
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// Abuse 29: a handler that breaks takes nobody with it.
func TestPanicInHandlerIsAnError(t *testing.T) {
	path, log := serve(t, func(s *Server) {
		Bind(s, VMReserve, func(context.Context, *Call, None) (VMReserveReply, []*os.File, error) { panic("broken") })
	})
	c := NewClient(path)
	if _, _, err := VMReserve.Call(t.Context(), c, None{}); !errors.Is(err, &Error{Code: Failed}) {
		t.Fatalf("got %v, want failed", err)
	}
	if _, _, err := Hello.Call(t.Context(), c, None{}); err != nil {
		t.Fatalf("server is gone: %v", err)
	}
	if !strings.Contains(log.String(), "panic in handler") {
		t.Fatal("nobody was told of the panic")
	}
}

// Abuse 27: one event is one line, whatever a client sends.
func TestAuditIsOneLine(t *testing.T) {
	path, log := serve(t, nil)
	conn := dial(t, path)
	ask(t, conn, []byte("{\"v\":1,\"id\":\"a\",\"op\":\"x\\n\\u001b[31mlevel=INFO\",\"args\":{}}"))
	conn.Close()
	if n := strings.Count(strings.TrimSpace(log.String()), "\n"); n != 0 || strings.Contains(log.String(), "\x1b") {
		t.Fatalf("audit is not one clean line: %q", log)
	}
}

// Every refusal has an answer, also of what is longer when it is told.
func TestLongRefusalIsAnswered(t *testing.T) {
	path, _ := serve(t, nil)
	for _, key := range []string{strings.Repeat("<", 1500), strings.Repeat("ü", 1500), strings.Repeat(`\u0001`, 500), strings.Repeat("a", 3000)} {
		got := ask(t, dial(t, path), []byte(`{"`+key+`":1}`))
		if !bytes.Contains(got, []byte(`"code":"invalid"`)) {
			t.Errorf("a key of %d bytes got %d bytes", len(key), len(got))
		}
	}
}

// lastListener accepts one connection when the server ends.
type lastListener struct {
	end    func()
	conn   *net.UnixConn
	closed chan struct{}
}

func (l *lastListener) AcceptUnix() (*net.UnixConn, error) {
	l.end()
	<-l.closed
	return l.conn, nil
}

func (l *lastListener) Close() error {
	close(l.closed)
	return nil
}

func TestConnectionAtTheEndIsClosed(t *testing.T) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(pair[0])
	f := os.NewFile(uintptr(pair[1]), "theirs")
	conn, err := net.FileConn(f)
	f.Close()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	l := &lastListener{end: cancel, conn: conn.(*net.UnixConn), closed: make(chan struct{})}
	if err := newServer(&logBuffer{}, nil).Serve(ctx, l); err != nil {
		t.Fatal(err)
	}
	unix.SetsockoptTimeval(pair[0], unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 1})
	if n, err := unix.Read(pair[0], make([]byte, 1)); n != 0 || err != nil {
		t.Errorf("it is still open: %d, %v", n, err)
	}
}

func TestServerWithoutAllOperationsRefusesToServe(t *testing.T) {
	s := &Server{}
	l, err := net.ListenUnix("unixpacket", &net.UnixAddr{Name: filepath.Join(t.TempDir(), "s"), Net: "unixpacket"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if err := s.Serve(t.Context(), l); err == nil || !strings.Contains(err.Error(), "has no handler") {
		t.Fatalf("got %v", err)
	}
}

func TestCallEndsWithItsContext(t *testing.T) {
	release := make(chan struct{})
	path, _ := serve(t, func(s *Server) {
		Bind(s, VMReserve, func(context.Context, *Call, None) (VMReserveReply, []*os.File, error) {
			<-release
			return VMReserveReply{}, nil, nil
		})
	})
	defer close(release)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	begin := time.Now()
	_, _, err := VMReserve.Call(ctx, NewClient(path), None{})
	if !errors.Is(err, context.DeadlineExceeded) || time.Since(begin) > 5*time.Second {
		t.Fatalf("got %v after %v", err, time.Since(begin))
	}
}

func TestNamesOfOperationsAreUnique(t *testing.T) {
	seen := map[string]bool{}
	for _, declared := range All() {
		op := declared.Declaration()
		if seen[op.Name] || op.MaxFiles > MaxFilesIn || op.FilesOut > MaxFilesOut {
			t.Errorf("bad declaration %+v", op)
		}
		seen[op.Name] = true
	}
	if len(seen) > 16 {
		t.Errorf("%d operations: the protocol has room for 16", len(seen))
	}
}
