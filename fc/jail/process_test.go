package jail

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func within(t testing.TB, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

func TestWait(t *testing.T) {
	p := start(t, newSpec(t, ""))
	if _, err := p.Wait(within(t, 50*time.Millisecond)); !errors.Is(err, ErrWaitTimeout) || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("wait with a deadline: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	begin := time.Now()
	time.AfterFunc(50*time.Millisecond, cancel)
	if _, err := p.Wait(ctx); !errors.Is(err, context.Canceled) || errors.Is(err, ErrWaitTimeout) {
		t.Errorf("wait that was cancelled: %v", err)
	}
	if d := time.Since(begin); d > 10*time.Second {
		t.Errorf("cancelled after %v", d)
	}
	if err := p.Release(); !errors.Is(err, ErrRunning) {
		t.Errorf("release of a running VMM: %v", err)
	}
	if err := p.Kill(); err != nil {
		t.Fatal(err)
	}
	for range 2 { // it stays known
		exit, err := p.Wait(within(t, 5*time.Second))
		if err != nil || !exit.Known || exit.String() != "killed by SIGKILL" {
			t.Errorf("exit %v, %v", exit, err)
		}
	}
	if err := p.Kill(); err != nil {
		t.Errorf("second kill: %v", err)
	}
	if err := p.Release(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(p.Record().Dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("jail directory: %v", err)
	}
	if err := p.Release(); err != nil {
		t.Errorf("second release: %v", err)
	}
}

func TestStop(t *testing.T) {
	for _, test := range []struct {
		name, mode string
		patience   time.Duration
		want       string
	}{
		{"ctrl-alt-del", "cad", 20 * time.Second, "exit status 0"},
		{"SIGTERM if there is no ctrl-alt-del", "term", 20 * time.Second, "exit status 7"},
		{"killed at the deadline", "stubborn", 300 * time.Millisecond, "killed by SIGKILL"},
	} {
		t.Run(test.name, func(t *testing.T) {
			p := start(t, newSpec(t, test.mode))
			if err := p.Stop(within(t, test.patience)); err != nil {
				t.Fatal(err)
			}
			exit, err := p.Wait(t.Context())
			if err != nil || exit.String() != test.want {
				t.Errorf("%v, %v, want %s", exit, err, test.want)
			}
		})
	}
}

func TestOwnerReachesSockets(t *testing.T) {
	p := start(t, newSpec(t, ""))
	for _, test := range []struct {
		uid  uint32
		want string
	}{
		{ownerUID, "api.sock ok\nv.sock ok\n"},
		{ownerUID + 1, "api.sock dial unix /proc/self/fd/3/api.sock: connect: permission denied\nv.sock ok\n"}, // who has the descriptor
	} {
		cmd := exec.Command("/proc/self/exe")
		cmd.Args, cmd.ExtraFiles = []string{"fake-owner"}, []*os.File{p.RunDir()}
		cmd.SysProcAttr = &unix.SysProcAttr{Credential: &syscall.Credential{Uid: test.uid, Gid: test.uid}}
		out, err := cmd.Output()
		if err != nil || string(out) != test.want {
			t.Errorf("uid %d: %q, %v", test.uid, out, err)
		}
	}
	for path, want := range map[string]os.FileMode{
		p.Record().Dir:                   os.ModeDir | 0o700,
		p.Record().Dir + "/run":          os.ModeDir | 0o711,
		p.Record().Dir + "/run/api.sock": os.ModeSocket | 0o600,
	} {
		if fi, err := os.Stat(path); err != nil || fi.Mode() != want {
			t.Errorf("%s: %v, %v", path, fi.Mode(), err)
		}
	}
}

func TestListen(t *testing.T) {
	s := newSpec(t, "")
	p := start(t, s)
	victim := filepath.Join(t.TempDir(), "victim")
	if err := os.WriteFile(victim, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	// What the VMM planted under the name is replaced, and not followed.
	if err := os.Symlink(victim, p.Record().Dir+"/run/v.sock_1024"); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		l, err := p.Listen(1024)
		if err != nil {
			t.Fatal(err)
		}
		ask(t, p, "dial 1024") // its connection waits in the backlog
		fd := accept(t, l)
		b := make([]byte, 16)
		n, _ := unix.Read(fd, b)
		unix.Close(fd)
		l.Close()
		if string(b[:max(n, 0)]) != "hello" {
			t.Errorf("the VMM said %q", b[:max(n, 0)])
		}
	}
	if fi, err := os.Stat(victim); err != nil || !fi.Mode().IsRegular() || fi.Mode() != 0o600 {
		t.Errorf("file behind the link: %v, %v", fi, err)
	}
}

// accept takes one connection from a listener.
func accept(t *testing.T, l *os.File) int {
	t.Helper()
	if n, err := unix.Poll([]unix.PollFd{{Fd: int32(l.Fd()), Events: unix.POLLIN}}, 5000); n != 1 {
		t.Fatalf("nobody dialled: %v", err)
	}
	fd, _, err := unix.Accept(int(l.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	return fd
}

func TestReleasePlanted(t *testing.T) {
	s := newSpec(t, "plant")
	outside := filepath.Join(filepath.Dir(s.Parent), "outside")
	if err := os.Mkdir(outside, 0o777); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(outside, "precious"), nil, 0o666); err != nil {
		t.Fatal(err)
	}
	p := start(t, s)
	if n := len(list(p.Record().Dir + "/run")); n < 2000 {
		t.Fatalf("only %d files were planted", n)
	}
	files := len(list("/proc/self/fd"))
	p.Kill()
	p.gone()
	begin := time.Now()
	if err := p.Release(); err != nil {
		t.Fatal(err)
	}
	t.Logf("released in %v", time.Since(begin))
	leftNothing(t, s)
	if _, err := os.Stat(filepath.Join(outside, "precious")); err != nil {
		t.Errorf("file outside: %v", err)
	}
	if n := len(list("/proc/self/fd")); n >= files {
		t.Errorf("%d descriptors before release, %d after", files, n)
	}
}

func TestReleaseCrossesNoMount(t *testing.T) {
	s := newSpec(t, "")
	p := start(t, s)
	p.Kill()
	p.gone()
	target := p.Record().Dir + "/run/mounted"
	if err := os.Mkdir(target, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", target, "tmpfs", 0, ""); err != nil {
		t.Skipf("cannot mount: %v", err)
	}
	defer unix.Unmount(target, unix.MNT_DETACH)
	if err := os.WriteFile(target+"/precious", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := p.dir.remove(); err == nil {
		t.Error("removed a directory with a mount in it")
	}
	if _, err := os.Stat(target + "/precious"); err != nil {
		t.Errorf("file on the mount: %v", err)
	}
}

func TestNothingIsLeftOpen(t *testing.T) {
	s := newSpec(t, "")
	start(t, s).Stop(t.Context()) // what the runtime opens once
	goroutines, files := runtime.NumGoroutine(), len(list("/proc/self/fd"))
	for range 5 {
		p, err := Start(within(t, 10*time.Second), s)
		if err != nil {
			t.Fatal(err)
		}
		p.Kill()
		p.gone()
		if err := p.Release(); err != nil {
			t.Fatal(err)
		}
	}
	// What was told to end may take a moment.
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		nowFiles, nowGoroutines := len(list("/proc/self/fd")), runtime.NumGoroutine()
		if nowFiles <= files && nowGoroutines <= goroutines {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d descriptors and %d goroutines before, %d and %d after", files, goroutines, nowFiles, nowGoroutines)
		}
	}
}

// A VMM whose run directory is sealed can make nothing there, whatever it has become. What it
// had made goes on, and its keeper can still make what he needs.
func TestSeal(t *testing.T) {
	needRoot(t)
	p := start(t, newSpec(t, ""))
	try := func() (made []string) {
		t.Helper()
		if err := json.Unmarshal(ask(t, p, "make"), &made); err != nil {
			t.Fatal(err)
		}
		return made
	}
	if made := try(); len(made) != 6 {
		t.Errorf("before it made only %q", made)
	}
	for range 2 {
		if err := p.Seal(); err != nil {
			t.Fatal(err)
		}
		if made := try(); len(made) != 0 {
			t.Errorf("sealed, and it made %q", made)
		}
	}
	q, err := Adopt(t.Context(), p.Record().Dir)
	if err != nil {
		t.Fatal(err)
	}
	defer q.Close()
	f, err := q.Listen(9)
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.FileListener(f)
	f.Close()
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	api, err := p.DialAPI()
	if err != nil {
		t.Fatal(err)
	}
	defer api.Close()
	fmt.Fprint(api, "dial 9")
	conn, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if word, err := io.ReadAll(conn); err != nil || string(word) != "hello" {
		t.Errorf("the guest says %q, %v", word, err)
	}
	if err := errors.Join(p.Kill(), p.gone(), p.Release()); err != nil {
		t.Error(err)
	}
}
