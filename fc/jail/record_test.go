package jail

import (
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

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

// A VMM may leave it to a child to serve the API socket.
func TestAdoptWhereAChildServes(t *testing.T) {
	needRoot(t)
	s := newSpec(t, "child")
	dir, keeper := keep(t, s, "child")
	keeper.Process.Kill()
	keeper.Wait()
	p, err := Adopt(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	var v view
	if err := json.Unmarshal(ask(t, p, "look"), &v); err != nil || v.PID == 1 {
		t.Errorf("process %d serves, %v", v.PID, err)
	}
	if err := p.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(p.gone(), p.Release()); err != nil {
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
	d, err := makeDir(s)
	if err != nil {
		t.Fatal(err)
	}
	st, err := startStage()
	if err != nil {
		t.Fatal(err)
	}
	p, err := st.adopt(s.UID, d)
	if err != nil {
		t.Fatal(err)
	}
	st.talk.Close() // what the kernel does for the dead
	if exit, err := p.Wait(within(t, 5*time.Second)); err != nil || exit.Status != 0 {
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
