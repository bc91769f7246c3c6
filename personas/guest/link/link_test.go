package link

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"banger/personas/guest/link/frame"
)

// peer runs fn at the other end of a connection, as a guest.
func peer(t *testing.T, fn func(conn net.Conn)) net.Conn {
	t.Helper()
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "peer"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	conn, err := net.Dial("unix", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	other, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer other.Close()
		fn(other)
	}()
	t.Cleanup(func() {
		conn.Close()
		other.Close()
		<-done
	})
	return conn
}

// reply is a guest that reads the request and sends bytes.
func reply(t *testing.T, text string) net.Conn {
	return peer(t, func(conn net.Conn) {
		if _, _, err := frame.NewReader(conn).Next(); err == nil {
			io.WriteString(conn, text)
		}
	})
}

// A guest that has ended the command need not have read what was sent to it.
func TestExecEndsWithAGuestThatReadsNoMore(t *testing.T) {
	signals, full, ended := make(chan syscall.Signal), make(chan struct{}), make(chan struct{})
	defer close(ended)
	conn := peer(t, func(conn net.Conn) {
		w := frame.NewWriter(conn)
		if _, _, err := frame.NewReader(conn).Next(); err == nil {
			_ = w.JSON(frame.Started, StartedReply{PID: 1})
		}
		<-full
		_ = w.JSON(frame.Exit, ExitReply{Code: 3})
		<-ended
	})
	go func() {
		defer close(full)
		for {
			select {
			case signals <- syscall.SIGUSR1:
			case <-time.After(100 * time.Millisecond): // nobody takes more
				return
			}
		}
	}()
	exit := make(chan int, 1)
	go func() {
		code, err := Exec(t.Context(), conn, ExecRequest{Args: []string{"x"}}, ExecIO{Signals: signals})
		if err != nil {
			t.Error(err)
		}
		exit <- code
	}()
	select {
	case code := <-exit:
		if code != 3 {
			t.Errorf("exit code %d", code)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("exec waits for a guest that reads no more")
	}
}

func TestHostileAnswers(t *testing.T) {
	for name, test := range map[string]struct {
		answer string
		want   error
	}{
		"4 GiB":               {"\x25\xff\xff\xff\xff{}", ErrProtocol},
		"not JSON":            {"\x25\x00\x00\x00\x03\xff\xfe\xfd", ErrProtocol},
		"another type":        {"\x21\x00\x00\x00\x01x", ErrProtocol},
		"two documents":       {"\x25\x00\x00\x00\x04{}{}", ErrProtocol},
		"wrong types":         {"\x25\x00\x00\x00\x0e{\"execs\":\"two\"", ErrProtocol},
		"nothing":             {"", io.ErrUnexpectedEOF},
		"half":                {"\x25\x00\x00\x00\x04{", io.ErrUnexpectedEOF},
		"out of the protocol": {"HTTP/1.1 200 OK\r\n\r\n", ErrProtocol},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := Query(t.Context(), reply(t, test.answer)); !errors.Is(err, test.want) {
				t.Errorf("query: got %v, want %v", err, test.want)
			}
			code, err := Exec(t.Context(), reply(t, test.answer), ExecRequest{Args: []string{"x"}}, ExecIO{})
			if code != -1 || err == nil {
				t.Errorf("exec: got %d, %v", code, err)
			}
			if err := CopyOut(t.Context(), reply(t, test.answer), []string{"/x"}, t.TempDir(), CopyOptions{}); err == nil {
				t.Error("copy: no error")
			}
		})
	}
}

func TestHostileExec(t *testing.T) {
	const started = "\x20\x00\x00\x00\x09{\"pid\":1}"
	for name, answer := range map[string]string{
		"exit code beyond a byte": started + "\x24\x00\x00\x00\x0c{\"code\":256}",
		"negative exit code":      started + "\x24\x00\x00\x00\x0b{\"code\":-1}",
		"input that was not sent": started + "\x23\x00\x00\x00\x04\xff\xff\xff\xff",
		"end without exit code":   started + "\x21\x00\x00\x00\x02hi",
		"started twice":           started + started,
		"exit code is a word":     "\x24\x00\x00\x00\x0e{\"code\":\"zero\"}",
	} {
		t.Run(name, func(t *testing.T) {
			code, err := Exec(t.Context(), reply(t, answer), ExecRequest{Args: []string{"x"}}, ExecIO{Stdout: io.Discard})
			if code != -1 || err == nil {
				t.Fatalf("got %d, %v", code, err)
			}
		})
	}
}

// A guest that never answers holds nobody: the context ends every call.
func TestSilentGuest(t *testing.T) {
	silent := func() net.Conn { return peer(t, func(conn net.Conn) { io.Copy(io.Discard, conn) }) }
	for name, call := range map[string]func(ctx context.Context) error{
		"hello": func(ctx context.Context) error { _, err := ReadHello(ctx, silent()); return err },
		"ready": func(ctx context.Context) error { _, err := ReadReady(ctx, silent()); return err },
		"exec": func(ctx context.Context) error {
			_, err := Exec(ctx, silent(), ExecRequest{Args: []string{"x"}}, ExecIO{})
			return err
		},
		"query":    func(ctx context.Context) error { _, err := Query(ctx, silent()); return err },
		"shutdown": func(ctx context.Context) error { return Shutdown(ctx, silent(), ShutdownRequest{}) },
		"copy in": func(ctx context.Context) error {
			return CopyIn(ctx, silent(), []string{t.TempDir()}, "/x", CopyOptions{})
		},
		"copy out": func(ctx context.Context) error {
			return CopyOut(ctx, silent(), []string{"/x"}, t.TempDir(), CopyOptions{})
		},
	} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
			defer cancel()
			begin := time.Now()
			err := call(ctx)
			if !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("got %v", err)
			}
			if took := time.Since(begin); took > HandshakeTimeout/2 {
				t.Errorf("it took %v", took)
			}
		})
	}
}

func TestFailureIsTheGuestsWord(t *testing.T) {
	conn := peer(t, func(conn net.Conn) {
		frame.NewReader(conn).Next()
		frame.NewWriter(conn).Fail(errors.New("no\x1b[31m disk"))
	})
	_, err := Query(t.Context(), conn)
	var failure *Failure
	if !errors.As(err, &failure) || !strings.Contains(err.Error(), `no\x1b[31m disk`) {
		t.Fatalf("got %v", err)
	}
}

func TestBootConfigValidate(t *testing.T) {
	good := func() BootConfig {
		return BootConfig{
			Hostname: "web-1.vm", Disk: Disk{Device: "vda", Upper: "vdb"}, Init: InitAuto,
			Network: &Network{Addresses: []netip.Prefix{netip.MustParsePrefix("10.83.0.3/16")}, Search: []string{"vm"}},
			Hosts:   []Host{{netip.MustParseAddr("10.83.0.1"), []string{"host.vm"}}},
			Files:   []File{{Path: "/etc/motd", Mode: 0o644}},
			Exec:    ExecDefaults{Env: []string{"A=b=c", "EMPTY="}, Dir: "/srv"},
		}
	}
	if err := good().Validate(); err != nil {
		t.Fatal(err)
	}
	for name, spoil := range map[string]func(*BootConfig){
		"line in the hostname": func(c *BootConfig) { c.Hostname = "web\nroot" },
		"dash first":           func(c *BootConfig) { c.Hostname = "-web" },
		"long label":           func(c *BootConfig) { c.Hostname = strings.Repeat("a", 64) },
		"no device":            func(c *BootConfig) { c.Disk.Device = "" },
		"device elsewhere":     func(c *BootConfig) { c.Disk.Device = "../vda" },
		"upper elsewhere":      func(c *BootConfig) { c.Disk.Upper = "a,lowerdir=/" },
		"odd file system":      func(c *BootConfig) { c.Disk.FSType = "ext4 -o x" },
		"unknown init":         func(c *BootConfig) { c.Init = "openrc" },
		"long seed":            func(c *BootConfig) { c.Entropy = make([]byte, 513) },
		"relative directory":   func(c *BootConfig) { c.Exec.Dir = "srv" },
		"no variable":          func(c *BootConfig) { c.Exec.Env = []string{"novalue"} },
		"no name":              func(c *BootConfig) { c.Exec.Env = []string{"=value"} },
		"relative file":        func(c *BootConfig) { c.Files[0].Path = "etc/motd" },
		"type bits":            func(c *BootConfig) { c.Files[0].Mode = 0o100644 },
		"no address":           func(c *BootConfig) { c.Hosts[0].Address = netip.Addr{} },
		"line in a name":       func(c *BootConfig) { c.Hosts[0].Names = []string{"a\n127.0.0.1 b"} },
		"line in a key":        func(c *BootConfig) { c.AuthorizedKeys = []string{"ssh-ed25519 A\nssh-rsa B"} },
		"line in a domain":     func(c *BootConfig) { c.Network.Search = []string{"a b"} },
		"small mtu":            func(c *BootConfig) { c.Network.MTU = 10 },
		"no prefix":            func(c *BootConfig) { c.Network.Addresses[0] = netip.Prefix{} },
		"no resolver":          func(c *BootConfig) { c.Network.DNS = []netip.Addr{{}} },
	} {
		c := good()
		spoil(&c)
		if c.Validate() == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func FuzzDecodeRequest(f *testing.F) {
	f.Add([]byte(`{"exec":{"args":["dHJ1ZQ=="],"env":["QT0x"],"tty":true,"size":{"rows":1,"cols":2}}}`))
	f.Add([]byte(`{"copy_in":{"dest":"L3g=","sources":[{"name":"YQ==","contents":true}],"owners":true}}`))
	f.Add([]byte(`{"copy_out":{"sources":["L3g="]}}`))
	f.Add([]byte(`{"shutdown":{"force":true,"grace_seconds":1}}`))
	f.Fuzz(func(t *testing.T, in []byte) {
		r, err := DecodeRequest(in)
		if err == nil && r.Validate() != nil {
			t.Fatal("decoded, but not valid")
		}
	})
}

func FuzzBootConfig(f *testing.F) {
	f.Add([]byte(`{"hostname":"web","disk":{"device":"vda","upper":"vdb","grow":true},"network":{"addresses":["10.83.0.3/16"],"gateway":"10.83.0.1"}}`))
	f.Add([]byte(`{"disk":{"device":"vda"},"hosts":[{"address":"::1","names":["a"]}],"files":[{"path":"/x","mode":420,"data":"eA=="}]}`))
	f.Fuzz(func(t *testing.T, in []byte) {
		var c BootConfig
		if frame.DecodeStrict(in, &c) == nil && c.Validate() == nil && (strings.ContainsAny(c.Hostname, "\n /") || !device(c.Disk.Device)) {
			t.Fatalf("taken: %+v", c)
		}
	})
}
