package jail

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
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
	time.AfterFunc(50*time.Millisecond, cancel)
	begin := time.Now()
	if _, err := p.Wait(ctx); !errors.Is(err, context.Canceled) || errors.Is(err, ErrWaitTimeout) {
		t.Errorf("wait that was cancelled: %v", err)
	}
	if d := time.Since(begin); d > time.Second {
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
		out, err := cmd.CombinedOutput()
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

func TestAdopt(t *testing.T) {
	needRoot(t)
	s := newSpec(t, "")
	dir, keeper := keep(t, s, "")
	if p, err := Adopt(t.Context(), dir); err != nil {
		t.Fatalf("adopt while the keeper lives: %v", err)
	} else if err := p.Close(); err != nil {
		t.Error(err)
	}
	keeper.Process.Signal(unix.SIGKILL)
	keeper.Wait()

	dirs, err := List(s.Parent)
	if err != nil || len(dirs) != 1 || dirs[0] != dir {
		t.Fatalf("list: %v, %v", dirs, err)
	}
	if err := Remove(t.Context(), dir); !errors.Is(err, ErrRunning) {
		t.Errorf("remove of a running VMM: %v", err)
	}
	p, err := Adopt(within(t, 5*time.Second), dir)
	if err != nil {
		t.Fatal(err)
	}
	if len(ask(t, p, "look")) == 0 {
		t.Error("the VMM does not answer")
	}
	if l, err := p.Listen(7); err != nil {
		t.Error(err)
	} else {
		l.Close()
	}
	if err := p.Kill(); err != nil {
		t.Fatal(err)
	}
	exit, err := p.Wait(within(t, 5*time.Second))
	if err != nil {
		t.Fatal(err)
	}
	if exit.Known && exit.String() != "killed by SIGKILL" {
		t.Errorf("exit: %v", exit)
	}
	t.Logf("exit of an adopted VMM: %v", exit)
	if _, err := Adopt(t.Context(), dir); !errors.Is(err, ErrGone) {
		t.Errorf("adopt of a dead VMM: %v", err)
	}
	if err := p.Release(); err != nil {
		t.Error(err)
	}
	leftNothing(t, s)
}

// keep starts a VMM in a keeper process of its own.
func keep(t *testing.T, s *Spec, mode string) (dir string, keeper *exec.Cmd) {
	t.Helper()
	return keepWith(t, s, mode, nil)
}

func keepWith(t *testing.T, s *Spec, mode string, attr *syscall.SysProcAttr) (dir string, keeper *exec.Cmd) {
	t.Helper()
	keeper = exec.Command("/proc/self/exe")
	keeper.SysProcAttr = attr
	keeper.Args = []string{"fake-keeper", s.Parent, s.Kernel.Name(), s.Disks[0].File.Name(), s.Log.Name(), mode, strconv.Itoa(s.UID), must(os.Executable())}
	out, err := keeper.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := keeper.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		keeper.Process.Kill()
		keeper.Wait()
	})
	b := make([]byte, 4096)
	n, err := out.Read(b)
	if dir = strings.TrimSpace(string(b[:n])); err != nil || !strings.HasPrefix(dir, s.Parent) {
		t.Fatalf("keeper said %q, %v", b[:n], err)
	}
	return dir, keeper
}

// A keeper that lives reaps its child; the kernel keeps the status for others.
func TestExitOfOthersChild(t *testing.T) {
	needRoot(t)
	dir, _ := keep(t, newSpec(t, ""), "")
	p, err := Adopt(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	if err := p.Kill(); err != nil {
		t.Fatal(err)
	}
	exit, err := p.Wait(within(t, 5*time.Second))
	if err != nil {
		t.Fatal(err)
	}
	if !exit.Known {
		t.Skip("needs Linux 6.15 to know the status of a process that is no child")
	}
	if exit.String() != "killed by SIGKILL" {
		t.Errorf("exit: %v", exit)
	}
}

// In a user namespace devices cannot be made, and the host's are shown instead.
func TestUserNamespace(t *testing.T) {
	needRoot(t)
	all := []syscall.SysProcIDMap{{Size: 1<<32 - 2}}
	dir, _ := keepWith(t, newSpec(t, ""), "", &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWUSER | unix.CLONE_NEWNS, UidMappings: all, GidMappings: all,
		GidMappingsEnableSetgroups: true,
	})
	p, err := Adopt(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	defer p.Kill()
	var v view
	if err := json.Unmarshal(ask(t, p, "look"), &v); err != nil {
		t.Fatal(err)
	}
	if v.Null != "ok" || v.DiskWrite != "ok" || v.RootWrite == "ok" || v.UID != vmUID {
		t.Errorf("%+v", v)
	}
}

func TestAdoptProves(t *testing.T) {
	needRoot(t)
	s := newSpec(t, "")
	p := start(t, s)
	defer p.Kill()
	for _, test := range []struct {
		name   string
		change func(*Record)
	}{
		{"other start time, as after the pid was used again", func(r *Record) { r.StartTicks++ }},
		{"other uid", func(r *Record) { r.UID++ }},
		{"process of somebody else", func(r *Record) { r.PID = os.Getpid() }},
		{"pid that does not exist", func(r *Record) { r.PID = 1 << 22 }},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := p.Record()
			test.change(&r)
			if err := p.dir.writeRecord(r); err != nil {
				t.Fatal(err)
			}
			if q, err := Adopt(t.Context(), p.Record().Dir); !errors.Is(err, ErrGone) {
				t.Errorf("adopted %v, %v", q, err)
			}
		})
	}
}

// The stage must not outlive a keeper that dies before it has sent the plan.
func TestKeeperDiesBeforePlan(t *testing.T) {
	needRoot(t)
	s := newSpec(t, "")
	d, err := makeDir(s.Parent, s.ID, s.UID, s.GID)
	if err != nil {
		t.Fatal(err)
	}
	f, _, err := s.files(d)
	if err != nil {
		t.Fatal(err)
	}
	ours, theirs, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	p, err := launch(f.inherit(ours), s.UID, d)
	ours.Close()
	if err != nil {
		t.Fatal(err)
	}
	theirs.Close() // what the kernel does for the dead
	if exit, err := p.Wait(within(t, 5*time.Second)); err != nil || exit.Status.ExitStatus() != 1 {
		t.Errorf("exit %v, %v", exit, err)
	}
	if err := p.Close(); err != nil {
		t.Error(err)
	}
	if err := Remove(t.Context(), p.Record().Dir); err != nil {
		t.Error(err)
	}
	leftNothing(t, s)
}

func TestRemove(t *testing.T) {
	needRoot(t)
	s := newSpec(t, "")
	for _, test := range []struct {
		name string
		make func(dir string) error
	}{
		{"what is not there", func(string) error { return nil }},
		{"directory without anything", func(dir string) error { return os.Mkdir(dir, 0o700) }},
		{"directory without a record", func(dir string) error { return os.MkdirAll(dir+"/run/x", 0o700) }},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir := filepath.Join(s.Parent, "web-0123456789abcdef")
			if err := test.make(dir); err != nil {
				t.Fatal(err)
			}
			if err := Remove(t.Context(), dir); err != nil {
				t.Error(err)
			}
			leftNothing(t, s)
		})
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
	if n := len(list("/proc/self/fd")); n != files {
		t.Errorf("%d descriptors before, %d after", files, n)
	}
	if n := runtime.NumGoroutine(); n > goroutines {
		t.Errorf("%d goroutines before, %d after", goroutines, n)
	}
}

func TestResolve(t *testing.T) {
	dir := t.TempDir()
	binary := filepath.Join(dir, "firecracker-v1")
	if err := os.WriteFile(binary, []byte("#!"), 0o755); err != nil {
		t.Fatal(err)
	}
	os.Symlink("firecracker-v1", filepath.Join(dir, "firecracker"))
	os.WriteFile(filepath.Join(dir, "plain"), nil, 0o644)
	for _, test := range []struct{ name, path, configured, want, err string }{
		{"configured", "", binary, binary, ""},
		{"configured wins", dir, "/bin/sh", must(filepath.EvalSymlinks("/bin/sh")), ""},
		{"PATH, through links", dir, "", binary, ""},
		{"nothing", "/no", "", "", "find firecracker in PATH: file does not exist"},
		{"configured and missing", dir, "/no/fc", "", `use firecracker at "/no/fc": no such file or directory`},
		{"relative", dir, "bin/fc", "", "not an absolute path"},
		{"directory", dir, dir, "", "not a regular file"},
		{"not executable", dir, filepath.Join(dir, "plain"), "", "not executable"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Setenv("PATH", test.path)
			got, err := Resolve("firecracker", test.configured)
			if got != test.want || !strings.Contains(fmt.Sprint(err), test.err) || (err == nil) != (test.err == "") {
				t.Fatalf("%q, %v", got, err)
			}
			var missing *MissingError
			if err != nil && (!errors.As(err, &missing) || missing.Hint() != "install firecracker or set firecracker_bin") {
				t.Errorf("error %#v has no hint", err)
			}
		})
	}
	t.Setenv("PATH", "/no")
	if _, err := Resolve("firecracker", ""); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("missing binary: %v", err)
	}
}

func must(s string, err error) string {
	if err != nil {
		panic(err)
	}
	return s
}
