package api

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestValidateSpec(t *testing.T) {
	for _, c := range []struct {
		name string
		spec VMSpec
		ok   bool
	}{
		{"nothing at all", VMSpec{}, true},
		{"everything", VMSpec{
			Name: "web-1", Image: "debian", Kernel: "sha256:" + strings.Repeat("a", 64), CPUs: MaxCPUs, MemMiB: MinMemMiB, DiskBytes: MaxDiskBytes,
			Net: NetFull, Init: InitBanger, VMM: VMMQEMU, Backend: BackendCopy,
			Env: []string{"A=", "B=c=d"}, User: "www:www", WorkDir: "/srv", AutoRemove: true,
		}, true},
		{"upper case", VMSpec{Name: "Web"}, false},
		{"path", VMSpec{Name: "../web"}, false},
		{"dash first", VMSpec{Name: "-web"}, false},
		{"dash last", VMSpec{Name: "web-"}, false},
		{"40 bytes", VMSpec{Name: strings.Repeat("a", 40)}, false},
		{"look-alike", VMSpec{Name: "wеb"}, false}, // a Cyrillic letter
		{"newline", VMSpec{Name: "web\n"}, false},
		{"no name but a NUL", VMSpec{Name: "\x00"}, false},
		{"too many CPUs", VMSpec{CPUs: MaxCPUs + 1}, false},
		{"negative CPUs", VMSpec{CPUs: -1}, false},
		{"little memory", VMSpec{MemMiB: MinMemMiB - 1}, false},
		{"negative memory", VMSpec{MemMiB: -MinMemMiB}, false},
		{"much memory", VMSpec{MemMiB: MaxMemMiB + 1}, false},
		{"small disk", VMSpec{DiskBytes: MinDiskBytes - 1}, false},
		{"negative disk", VMSpec{DiskBytes: -1}, false},
		{"large disk", VMSpec{DiskBytes: MaxDiskBytes + 1}, false},
		{"unknown net", VMSpec{Net: "host"}, false},
		{"unknown init", VMSpec{Init: "systemd"}, false},
		{"unknown VMM", VMSpec{VMM: "xen"}, false},
		{"unknown backend", VMSpec{Backend: "qcow2"}, false},
		{"variable without a value", VMSpec{Env: []string{"A"}}, false},
		{"variable without a name", VMSpec{Env: []string{"=a"}}, false},
		{"NUL in a variable", VMSpec{Env: []string{"A=\x00"}}, false},
		{"large environment", VMSpec{Env: []string{"A=" + strings.Repeat("a", MaxEnvBytes)}}, false},
		{"large user", VMSpec{User: strings.Repeat("a", 300)}, false},
		{"relative directory", VMSpec{WorkDir: "srv"}, false},
		{"NUL in a directory", VMSpec{WorkDir: "/\x00"}, false},
		{"large directory", VMSpec{WorkDir: "/" + strings.Repeat("a", maxPath)}, false},
		{"large image", VMSpec{Image: strings.Repeat("a", 100)}, false},
	} {
		err := c.spec.Validate()
		if (err == nil) != c.ok {
			t.Errorf("%s: %v", c.name, err)
		}
		if err != nil && len(err.Error()) > 512 {
			t.Errorf("%s: the error has %d bytes", c.name, len(err.Error()))
		}
	}
}

func TestValidateImport(t *testing.T) {
	for ref, ok := range map[string]bool{
		"": true, "debian:12": true, "registry.example:5000/a/b@sha256:" + strings.Repeat("a", 64): true, strings.Repeat("a", MaxRefBytes): true,
		strings.Repeat("a", MaxRefBytes+1): false, "a b": false, "a\n": false, "\x1b[2J": false, "a\x00": false, "a\u200e": false,
	} {
		if err := (&ImportRequest{Name: "a", Source: "a", Ref: ref}).Validate(); (err == nil) != ok || err != nil && len(err.Error()) > 512 {
			t.Errorf("%.80q: %v", ref, err)
		}
	}
}

// Whatever Validate accepts is the same after a way over the wire, and small.
func FuzzVMSpec(f *testing.F) {
	f.Add([]byte(`{"name":"web","cpus":2,"env":["A=b"],"work_dir":"/srv","auto_remove":true}`))
	f.Add([]byte(`{"name":"web-","net":"host"}`))
	f.Add([]byte(`{"env":["A"],"disk_bytes":-9223372036854775808}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		var s VMSpec
		if json.Unmarshal(data, &s) != nil || s.Validate() != nil {
			return
		}
		again, err := json.Marshal(s)
		if err != nil {
			t.Fatal(err)
		}
		var back VMSpec
		if err := json.Unmarshal(again, &back); err != nil || back.Validate() != nil {
			t.Fatalf("%s became %s: %v", data, again, err)
		}
		third, err := json.Marshal(back)
		if err != nil || string(third) != string(again) {
			t.Fatalf("%s became %s", again, third)
		}
	})
}

// A stream of events ends with a result or an error, whatever it holds.
func FuzzReadEvents(f *testing.F) {
	f.Add([]byte(`{"step":"disk"}` + "\n" + `{"step":"disk","done":true,"millis":1.5}` + "\n" + `{"result":{"id":"a"}}` + "\n"))
	f.Add([]byte(`{"error":{"code":"conflict","message":"m"}}` + "\n"))
	f.Add([]byte("{\"result\":null}"))
	f.Add([]byte("\n\n{}"))
	f.Fuzz(func(t *testing.T, data []byte) {
		var vm VM
		events := 0
		err := readEvents(strings.NewReader(string(data)), func(e Event) {
			events++
			if e.Result != nil || e.Error != nil {
				t.Error("the end came as progress")
			}
		}, &vm)
		// encoding/json takes keys in any case, and with escapes.
		if text := strings.ToLower(string(data)); err == nil && !strings.Contains(text, "result") && !strings.Contains(text, `\u`) {
			t.Errorf("%q ended well", data)
		}
		if events > len(data) {
			t.Errorf("%d events in %d bytes", events, len(data))
		}
	})
}

func TestStreamThatBreaks(t *testing.T) {
	for _, c := range []struct {
		text string
		want error
	}{
		{"", io.ErrUnexpectedEOF},
		{`{"step":"a"}` + "\n", io.ErrUnexpectedEOF},
	} {
		if err := readEvents(strings.NewReader(c.text), nil, nil); !errors.Is(err, c.want) {
			t.Errorf("%q: got %v, want %v", c.text, err, c.want)
		}
	}
	if err := readEvents(strings.NewReader(`{"step":`), nil, nil); err == nil {
		t.Error("half an event is no error")
	}
	long := `{"notice":"` + strings.Repeat("a", maxAnswer)
	if err := readEvents(strings.NewReader(long), nil, nil); err == nil {
		t.Error("an endless event is no error")
	}
}

// A descriptor more, or one less, and all are closed.
func TestFiles(t *testing.T) {
	null, err := os.Open("/dev/null")
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	a, b := pair(t)
	before := openFiles(t)
	names := []string{"a", "b", "c", "d"}
	for _, sent := range []int{0, 1, 2, 3, 8, 9, 60} {
		for want := range 4 {
			files := make([]*os.File, sent)
			for i := range files {
				files[i] = null
			}
			if err := SendFiles(a, files...); err != nil {
				t.Fatal(err)
			}
			got, err := RecvFiles(b, names[:want]...)
			if (err == nil) != (sent == want) || len(got) > 0 && len(got) != want {
				t.Errorf("sent %d, want %d: got %d, %v", sent, want, len(got), err)
			}
			for i, f := range got {
				if f.Name() != names[i] {
					t.Errorf("descriptor %d is called %s", i, f.Name())
				}
				if flags, err := unix.FcntlInt(f.Fd(), unix.F_GETFD, 0); err != nil || flags&unix.FD_CLOEXEC == 0 {
					t.Errorf("a descriptor that programs inherit: %x, %v", flags, err)
				}
				f.Close()
			}
		}
	}
	if n := openFiles(t); n != before {
		t.Errorf("%d descriptors are open, before %d", n, before)
	}
	a.Close()
	if _, err := RecvFiles(b, "file"); err == nil {
		t.Error("the end is no error")
	}
}

func pair(t *testing.T) (a, b *net.UnixConn) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	conns := [2]*net.UnixConn{}
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "pair")
		c, err := net.FileConn(f)
		f.Close()
		if err != nil {
			t.Fatal(err)
		}
		conns[i] = c.(*net.UnixConn)
		t.Cleanup(func() { c.Close() })
	}
	return conns[0], conns[1]
}

func openFiles(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

// A daemon that does not answer ends with the client's patience.
func TestClientGivesUp(t *testing.T) {
	dir, err := os.MkdirTemp("", "api")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	l, err := net.Listen("unix", dir+"/s")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c := New(dir+"/s", "id")
	for name, call := range map[string]func(context.Context) error{
		"version": func(ctx context.Context) error { _, err := c.Version(ctx); return err },
		"hold":    func(ctx context.Context) error { _, err := c.Hold(ctx, "a"); return err },
		"create":  func(ctx context.Context) error { _, err := c.CreateVM(ctx, VMSpec{}, nil); return err },
		"import": func(ctx context.Context) error {
			_, err := c.ImportImage(ctx, ImportRequest{}, os.Stdin, nil)
			return err
		},
		"logs": func(ctx context.Context) error { return c.Logs(ctx, "a", true, io.Discard) },
	} {
		for _, begun := range []string{"", "HTTP/1.1 200", "HTTP/1.1 200 OK\r\n\r\n", "HTTP/1.1 101 Switching Protocols\r\n\r\n"} {
			if switches := strings.Contains(begun, "Switching"); switches != (name == "import") && strings.HasSuffix(begun, "\n") {
				continue // is an answer of the other kind
			}
			ctx, cancel := context.WithCancelCause(t.Context())
			done := make(chan error, 1)
			go func() { done <- call(ctx) }()
			conn, err := l.Accept()
			if err != nil {
				t.Fatal(err)
			}
			if _, err := io.WriteString(conn, begun); err != nil {
				t.Fatal(err)
			}
			enough := errors.New("enough")
			cancel(enough)
			if err := <-done; !errors.Is(err, enough) {
				t.Errorf("%s, answered with %q: got %v", name, begun, err)
			}
			conn.Close()
		}
	}
}

// What is refused before it was read to its end is known to be refused, and why.
func TestClientIsRefusedEarly(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		io.WriteString(conn, "HTTP/1.0 400 Bad Request\r\n\r\n"+`{"code":"usage","message":"enough"}`)
		conn.Close()
	}()
	_, err = New(path, "").CreateVM(t.Context(), VMSpec{Env: []string{strings.Repeat("x", 4<<20)}}, nil)
	var refused *Error
	if !errors.As(err, &refused) || refused.Message != "enough" {
		t.Errorf("got %v", err)
	}
}

// Nor is the descriptor waited for that a daemon has promised.
func TestClientGivesUpOnADescriptor(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { _, err := New(path, "id").Agent(ctx, "a"); done <- err }()
	conn, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := http.ReadRequest(bufio.NewReader(conn)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	// Until the client has read that, it waits for the answer.
	raw, err := conn.(*net.UnixConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	for unread := 1; unread > 0; time.Sleep(time.Millisecond) {
		cerr := raw.Control(func(fd uintptr) { unread, err = unix.IoctlGetInt(int(fd), unix.SIOCOUTQ) })
		if err := errors.Join(cerr, err); err != nil {
			t.Fatal(err)
		}
	}
	cancel()
	select {
	case err := <-done:
		if !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("it waits on")
	}
}
