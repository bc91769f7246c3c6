package agent_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"banger/personas/guest/agent"
	"banger/personas/guest/link"
)

// run executes one command and returns all that came of it.
func run(t *testing.T, req link.ExecRequest, stdin string) (code int, stdout, stderr string, err error) {
	t.Helper()
	var out, errs bytes.Buffer
	req.Stdin = req.Stdin || stdin != ""
	code, err = link.Exec(limited(t), dial(t, agent.Config{}), req, link.ExecIO{
		Stdin: strings.NewReader(stdin), Stdout: &out, Stderr: &errs,
	})
	return code, out.String(), errs.String(), err
}

func sh(script string) link.ExecRequest { return link.ExecRequest{Args: []string{"sh", "-c", script}} }

func TestExec(t *testing.T) {
	for name, test := range map[string]struct {
		req    link.ExecRequest
		stdin  string
		code   int
		stdout string
		stderr string
	}{
		"exit code":                 {req: sh("exit 42"), code: 42},
		"both outputs":              {req: sh("echo out; echo err >&2"), stdout: "out\n", stderr: "err\n"},
		"killed by a signal":        {req: sh("kill -TERM $$"), code: 128 + 15},
		"arguments as sent":         {req: link.ExecRequest{Args: []string{"printf", "[%s]", "a b", "", "$HOME", "\xff\xfe", "*"}}, stdout: "[a b][][$HOME][\xff\xfe][*]"},
		"input to its end":          {req: link.ExecRequest{Args: []string{"cat"}}, stdin: "some input", stdout: "some input"},
		"no input is an empty file": {req: link.ExecRequest{Args: []string{"cat"}}},
		"environment":               {req: link.ExecRequest{Args: []string{"sh", "-c", "echo $A $PATH"}, Env: []string{"A=1", "A=2", "PATH=/usr/bin:/bin"}}, stdout: "2 /usr/bin:/bin\n"},
		"working directory":         {req: link.ExecRequest{Args: []string{"pwd"}, Dir: "/usr/lib"}, stdout: "/usr/lib\n"},
		"relative command":          {req: link.ExecRequest{Args: []string{"./sh", "-c", "echo here"}, Dir: "/bin"}, stdout: "here\n"},
		"blocking standard files":   {req: sh("grep flags /proc/self/fdinfo/1 | cut -c 8-"), stdout: "01\n"},
		// Those above 31 are libc's own: make starts its commands with two of them ignored.
		"signals as after login": {req: sh("echo $((0x$(sed -n 's/^SigIgn:.//p' /proc/self/status) & 0x7fffffff))"), stdout: "0\n"},
	} {
		t.Run(name, func(t *testing.T) {
			code, stdout, stderr, err := run(t, test.req, test.stdin)
			if err != nil || code != test.code || stdout != test.stdout || stderr != test.stderr {
				t.Fatalf("got %d, %q, %q, %v", code, stdout, stderr, err)
			}
		})
	}
}

func TestExecThatCannotStart(t *testing.T) {
	dir := t.TempDir()
	plain := filepath.Join(dir, "plain")
	if err := os.WriteFile(plain, []byte("no program\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		req  link.ExecRequest
		code int
	}{
		"unknown command":           {link.ExecRequest{Args: []string{"no-such-command"}}, 127},
		"unknown path":              {link.ExecRequest{Args: []string{"/no/such/command"}}, 127},
		"not executable":            {link.ExecRequest{Args: []string{plain}}, 126},
		"a directory":               {link.ExecRequest{Args: []string{dir}}, 126},
		"missing working directory": {link.ExecRequest{Args: []string{"true"}, Dir: "/no/such/dir"}, 126},
		"unknown user":              {link.ExecRequest{Args: []string{"true"}, User: "no-such-user"}, 126},
		"escapes in its name":       {link.ExecRequest{Args: []string{"no\x1b]0;such"}}, 127},
	} {
		t.Run(name, func(t *testing.T) {
			code, _, _, err := run(t, test.req, "")
			var start *link.StartError
			if code != test.code || !errors.As(err, &start) || strings.ContainsRune(err.Error(), 0x1b) {
				t.Fatalf("got %d, %v", code, err)
			}
		})
	}
}

func TestExecAsUser(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root to become someone else")
	}
	nobody, err := user.Lookup("nobody")
	if err != nil {
		t.Skip("needs a user nobody")
	}
	for spec, want := range map[string]string{
		"nobody":      fmt.Sprintf("%s %s %s", nobody.Uid, nobody.Gid, nobody.Gid),
		"nobody:root": fmt.Sprintf("%s 0 0", nobody.Uid),
		"12345:54321": "12345 54321 54321",
		"12345":       "12345 0 0",
		"":            "0 0 0",
	} {
		t.Run(spec, func(t *testing.T) {
			req := sh("echo $(id -u) $(id -g) $(id -G)")
			req.User = spec
			_, stdout, stderr, err := run(t, req, "")
			if err != nil || strings.TrimSpace(stdout) != want {
				t.Fatalf("got %q, %q, %v; want %q", stdout, stderr, err, want)
			}
		})
	}
}

// The directory is entered as the user. What forbids that is not the command.
func TestExecInADirectoryOfOthers(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root to become someone else")
	}
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	code, _, _, err := run(t, link.ExecRequest{Args: []string{"ls"}, User: "12345", Dir: dir}, "")
	if want := fmt.Sprintf("exec %q in %q: permission denied", "ls", dir); code != 126 || err == nil || err.Error() != want {
		t.Errorf("got %d, %v; want %s", code, err, want)
	}
}

func TestExecCarriesMuch(t *testing.T) {
	const size = 100 << 20
	seed := [32]byte{1}
	want := sha256.New()
	var got bytes.Buffer
	stdin := io.TeeReader(io.LimitReader(rand.NewChaCha8(seed), size), want)
	req := link.ExecRequest{Args: []string{"sha256sum"}, Stdin: true}
	code, err := link.Exec(limited(t), dial(t, agent.Config{}), req, link.ExecIO{Stdin: stdin, Stdout: &got})
	if sum := fmt.Sprintf("%x  -\n", want.Sum(nil)); err != nil || code != 0 || got.String() != sum {
		t.Fatalf("in: got %d, %q, %v; want %q", code, got.String(), err, sum)
	}
	out := sha256.New()
	req = sh("yes 'a line of some length' | head -c 104857600")
	code, err = link.Exec(limited(t), dial(t, agent.Config{}), req, link.ExecIO{Stdout: out})
	want = sha256.New()
	want.Write(bytes.Repeat([]byte("a line of some length\n"), size/22+1)[:size])
	if err != nil || code != 0 || !bytes.Equal(out.Sum(nil), want.Sum(nil)) {
		t.Fatalf("out: got %d, %x, %v", code, out.Sum(nil), err)
	}
}

func TestExecSignals(t *testing.T) {
	signals := make(chan syscall.Signal, 1)
	ready := writerFunc(func(p []byte) (int, error) {
		if bytes.Contains(p, []byte("ready")) {
			signals <- syscall.SIGUSR1
		}
		return len(p), nil
	})
	// The child must get it too: signals go to the group.
	code, err := link.Exec(limited(t), dial(t, agent.Config{}), sh("trap 'exit 33' USR1; echo ready; sleep 1000 & wait"),
		link.ExecIO{Stdout: ready, Signals: signals})
	if err != nil || code != 33 {
		t.Fatalf("got %d, %v", code, err)
	}
}

type writerFunc func(p []byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

// A signal must not wait behind input that the command does not read.
func TestExecSignalPassesUnreadInput(t *testing.T) {
	signals := make(chan syscall.Signal, 1)
	sent := 0
	stdin := readerFunc(func(p []byte) (int, error) {
		if sent += len(p); sent > 200<<10 {
			select {
			case signals <- syscall.SIGKILL:
			default:
			}
		}
		return len(p), nil
	})
	req := link.ExecRequest{Args: []string{"sleep", "1000"}, Stdin: true}
	code, err := link.Exec(limited(t), dial(t, agent.Config{}), req, link.ExecIO{Stdin: stdin, Signals: signals})
	if err != nil || code != 128+9 {
		t.Fatalf("got %d, %v", code, err)
	}
	if sent > 1<<20 {
		t.Fatalf("%d bytes of input were taken for a command that reads none", sent)
	}
}

type readerFunc func(p []byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

func TestExecTerminal(t *testing.T) {
	if _, err := os.Stat("/dev/ptmx"); err != nil {
		t.Skip("needs /dev/ptmx")
	}
	var out bytes.Buffer
	resize := make(chan link.WinSize, 1)
	stdout := writerFunc(func(p []byte) (int, error) {
		out.Write(p)
		if bytes.Contains(p, []byte("first")) {
			resize <- link.WinSize{Rows: 50, Cols: 132}
		}
		return len(p), nil
	})
	req := sh("tty >/dev/null && echo is a terminal; stty size; trap 'stty size; exit 5' WINCH; echo first; while :; do sleep 0.1; done")
	req.TTY, req.Size, req.Stdin = true, link.WinSize{Rows: 24, Cols: 80}, true
	code, err := link.Exec(limited(t), dial(t, agent.Config{}), req, link.ExecIO{Stdin: blocked(t), Stdout: stdout, Resize: resize})
	want := "is a terminal\r\n24 80\r\nfirst\r\n50 132\r\n"
	if err != nil || code != 5 || out.String() != want {
		t.Fatalf("got %d, %q, %v", code, out.String(), err)
	}
}

// blocked is input that does not come until the test ends.
func blocked(t *testing.T) io.Reader {
	r, w := io.Pipe()
	t.Cleanup(func() { w.Close() })
	return r
}

func TestExecTerminalInput(t *testing.T) {
	if _, err := os.Stat("/dev/ptmx"); err != nil {
		t.Skip("needs /dev/ptmx")
	}
	for name, test := range map[string]struct {
		args        []string
		stdin, want string
		code        int
	}{
		// Without a shell: dash, when it is about to fork, puts off a SIGINT until its child ends.
		"Ctrl-C interrupts": {[]string{"sleep", "100"}, "\x03", "^C", 130},
		"end of input":      {sh("stty -echo; cat").Args, "line\n", "line\r\n", 0},
	} {
		t.Run(name, func(t *testing.T) {
			code, stdout, _, err := run(t, link.ExecRequest{Args: test.args, TTY: true}, test.stdin)
			if err != nil || code != test.code || !strings.Contains(stdout, test.want) {
				t.Fatalf("got %d, %q, %v", code, stdout, err)
			}
		})
	}
}

func TestExecUserOwnsTerminal(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root to become someone else")
	}
	req := sh("echo hello >$(tty); stat -c %u $(tty)")
	req.TTY, req.User = true, "12345"
	code, stdout, _, err := run(t, req, "")
	if err != nil || code != 0 || stdout != "hello\r\n12345\r\n" {
		t.Fatalf("got %d, %q, %v", code, stdout, err)
	}
}

// What a command leaves behind in the background must not hold its end.
func TestExecDoesNotWaitForTheBackground(t *testing.T) {
	begin := time.Now()
	code, stdout, _, err := run(t, sh("sleep 1000 & echo $!; exit 3"), "")
	if err != nil || code != 3 {
		t.Fatalf("got %d, %v", code, err)
	}
	if took := time.Since(begin); took > 10*time.Second {
		t.Fatalf("it took %v", took)
	}
	var pid int
	if _, err := fmt.Sscan(stdout, &pid); err != nil {
		t.Fatalf("no pid in %q", stdout)
	}
	// The background process lives on, as it does after a shell's end.
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatalf("background process %d: %v", pid, err)
	}
}

// All that was written before the end arrives, also while someone keeps the pipe.
func TestExecDeliversBeforeTheEnd(t *testing.T) {
	slow := writerFunc(func(p []byte) (int, error) { time.Sleep(50 * time.Millisecond); return len(p), nil })
	var count int
	stdout := writerFunc(func(p []byte) (int, error) { count += len(p); return slow(p) })
	code, err := link.Exec(limited(t), dial(t, agent.Config{}), sh("sleep 5 & head -c 700000 /dev/zero"), link.ExecIO{Stdout: stdout})
	if err != nil || code != 0 || count != 700000 {
		t.Fatalf("got %d, %v, %d bytes", code, err, count)
	}
}

func TestExecHangsUp(t *testing.T) {
	for name, test := range map[string]struct {
		script  string
		byForce bool
	}{
		"by SIGHUP":                {"trap 'echo bye >file; exit' HUP; echo $$; sleep 1000 & wait", false},
		"by force":                 {"trap '' HUP; echo $$; while :; do sleep 1; done", true},
		"although it was stopped":  {"echo $$; kill -STOP $$", false},
		"although nobody reads it": {"echo $$; yes", false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			client, server := socketPair(t)
			ended := make(chan struct{})
			go func() {
				agent.New(agent.Config{}).Handle(context.Background(), server)
				close(ended)
			}()
			ctx, cancel := context.WithCancel(limited(t))
			pid := make(chan int, 1)
			var cancelled time.Time
			stdout := writerFunc(func(p []byte) (int, error) {
				var n int
				if _, err := fmt.Sscan(string(p), &n); err == nil {
					select {
					case pid <- n:
						cancelled = time.Now()
						cancel()
					default:
					}
				}
				return len(p), nil
			})
			req := sh(test.script)
			req.Dir = t.TempDir()
			_, err := link.Exec(ctx, client, req, link.ExecIO{Stdout: stdout})
			if !errors.Is(err, context.Canceled) {
				t.Fatalf("exec ends with %v", err)
			}
			<-ended
			took := time.Since(cancelled)
			if test.byForce != (took >= link.HangupGrace) || took > link.HangupGrace+20*time.Second {
				t.Errorf("it took %v", took)
			}
			if err := syscall.Kill(<-pid, 0); !errors.Is(err, syscall.ESRCH) {
				t.Errorf("the command is still there: %v", err)
			}
		})
	}
}

func TestExecDetached(t *testing.T) {
	dir := t.TempDir()
	console := filepath.Join(dir, "console")
	if err := os.WriteFile(console, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	req := sh("while [ ! -e go ]; do sleep 0.05; done; echo said; touch done")
	req.Dir, req.Detach = dir, true
	code, err := link.Exec(limited(t), dial(t, agent.Config{Console: console}), req, link.ExecIO{})
	if err != nil || code != 0 {
		t.Fatalf("got %d, %v", code, err)
	}
	if err := os.WriteFile(filepath.Join(dir, "go"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for range 200 {
		if _, err := os.Stat(filepath.Join(dir, "done")); err == nil {
			break
		}
		time.Sleep(50 * time.Millisecond)
	}
	if out, err := os.ReadFile(console); err != nil || string(out) != "said\n" {
		t.Fatalf("the console got %q, %v", out, err)
	}
}

func TestExecManyAtOnce(t *testing.T) {
	errs := make(chan error, 40)
	for i := range cap(errs) {
		conn := dial(t, agent.Config{})
		go func(conn net.Conn) {
			code, err := link.Exec(limited(t), conn, sh(fmt.Sprintf("exit %d", i)), link.ExecIO{})
			if err == nil && code != i {
				err = fmt.Errorf("exit code %d, not %d", code, i)
			}
			errs <- err
		}(conn)
	}
	for range cap(errs) {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
}
