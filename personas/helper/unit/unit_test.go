package unit

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"banger/fc/jail"
	"banger/personas/helper/systemd"
)

// fakeSystemd starts units by calling a function.
type fakeSystemd struct {
	start func(ctx context.Context, unit string) error
	set   []systemd.Property
	fails error // what SetProperties returns

	stopped bool
}

func (f *fakeSystemd) SetProperties(_ context.Context, _ string, p []systemd.Property) error {
	f.set = append(f.set, p...)
	return f.fails
}

func (f *fakeSystemd) Revert(context.Context, string) error {
	f.set = nil
	return nil
}

func (f *fakeSystemd) Start(ctx context.Context, unit string) error { return f.start(ctx, unit) }

func (f *fakeSystemd) Stop(context.Context, string) error {
	f.stopped = true
	return nil
}

func (f *fakeSystemd) Connected() bool { return true }

func (f *fakeSystemd) Close() error { return nil }

// launcher serves a socket, and starts units with start.
func launcher(t *testing.T, start func(context.Context, string) error) (*Launcher, string) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("only root is served")
	}
	path := filepath.Join(t.TempDir(), "launch.sock")
	l := &Launcher{
		Name: func(id string) string { return "vm@" + id },
		Dial: func(context.Context) (Manager, error) { return &fakeSystemd{start: start}, nil },
	}
	if err := l.Listen(t.Context(), path); err != nil {
		t.Fatal(err)
	}
	return l, path
}

// file makes a file with this content.
func file(t *testing.T, content string) *os.File {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "file"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	if _, err := f.WriteString(content); err != nil {
		t.Fatal(err)
	}
	return f
}

func spec(t *testing.T) *jail.Spec {
	return &jail.Spec{
		ID: "web", Parent: "/jails", UID: 5, GID: 6, OwnerUID: 7, OwnerGID: 8, Shared: true, Binary: "/vmm", Args: []string{"vmm", "--x"}, Jailer: "/jailer",
		System: true, KVM: true, Limits: jail.Limits{Files: 9, FileBytes: 10},
		Kernel: file(t, "kernel"), Initrd: file(t, "initrd"), Log: file(t, "log"),
		Disks: []jail.Disk{
			{File: file(t, "disk 0"), ReadOnly: true}, {File: file(t, "disk 1")}, {File: file(t, "disk 2"), Origin: file(t, "origin 2")},
			{File: file(t, "disk 3")},
		},
	}
}

func content(t *testing.T, f *os.File) string {
	t.Helper()
	data, err := io.ReadAll(io.NewSectionReader(f, 0, 100))
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// What one process says is what the other hears.
func TestOrderArrivesWhole(t *testing.T) {
	for _, withInitrd := range []bool{true, false} {
		var path string
		var got *jail.Spec
		l, path := launcher(t, func(ctx context.Context, unit string) error {
			if unit != "vm@web" {
				t.Errorf("started %q", unit)
			}
			o, err := Take(ctx, path, "web")
			if err != nil {
				return err
			}
			got = o.Spec
			return o.Failed(errors.New("enough"))
		})
		want := spec(t)
		if !withInitrd {
			want.Initrd = nil
		}
		if _, err := l.Start(t.Context(), want); err == nil || err.Error() != "enough" {
			t.Fatalf("start: %v", err)
		}
		if (got.Initrd != nil) != withInitrd {
			t.Fatalf("initrd: %v", got.Initrd)
		}
		texts := []string{content(t, got.Kernel), content(t, got.Log), content(t, got.Disks[2].Origin)}
		for i, d := range got.Disks {
			texts = append(texts, content(t, d.File))
			if (d.Origin != nil) != (i == 2) {
				t.Errorf("disk %d has the origin %v", i, d.Origin)
			}
		}
		if !slices.Equal(texts, []string{"kernel", "log", "origin 2", "disk 0", "disk 1", "disk 2", "disk 3"}) || withInitrd && content(t, got.Initrd) != "initrd" {
			t.Errorf("files hold %q", texts)
		}
		if !got.Disks[0].ReadOnly || got.Disks[1].ReadOnly {
			t.Error("which disk is read-only has changed")
		}
		a, b := *want, *got
		a.Kernel, a.Initrd, a.Log, a.Disks = nil, nil, nil, nil
		b.Kernel, b.Initrd, b.Log, b.Disks = nil, nil, nil, nil
		if !slices.Equal(a.Args, b.Args) {
			t.Errorf("got %q", b.Args)
		}
		if a.ID != b.ID || a.Parent != b.Parent || a.UID != b.UID || a.GID != b.GID || a.OwnerUID != b.OwnerUID || a.OwnerGID != b.OwnerGID ||
			a.Shared != b.Shared || a.Binary != b.Binary || a.Jailer != b.Jailer || a.System != b.System || a.KVM != b.KVM || a.Limits != b.Limits {
			t.Errorf("got %+v, want %+v", b, a)
		}
	}
}

func TestStartFails(t *testing.T) {
	var path string
	for name, c := range map[string]struct {
		start func(context.Context, string) error
		want  string
	}{
		"the unit cannot start": {func(context.Context, string) error { return errors.New("job failed") }, "job failed"},
		"the process dies with the order": {func(ctx context.Context, _ string) error {
			o, err := Take(ctx, path, "web")
			if err == nil {
				o.conn.Close()
			}
			return err
		}, "read from VM unit"},
		"it says nonsense": {func(ctx context.Context, _ string) error {
			o, err := Take(ctx, path, "web")
			if err == nil {
				_, err = o.conn.Write([]byte("{"))
			}
			return err
		}, "read from VM unit"},
		"there is no such jail": {func(ctx context.Context, _ string) error {
			o, err := Take(ctx, path, "web")
			if err != nil {
				return err
			}
			return o.Built("/nonexistent/web-1")
		}, "adopt VMM"},
	} {
		var l *Launcher
		l, path = launcher(t, c.start)
		_, err := l.Start(t.Context(), spec(t))
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
		if len(l.pending) > 0 {
			t.Errorf("%s: the order is still there", name)
		}
	}
}

// Who asks for a VM that nobody starts gets nothing, and so does a second one.
func TestNobodyElseIsServed(t *testing.T) {
	var path string
	l, path := launcher(t, func(ctx context.Context, _ string) error {
		o, err := Take(ctx, path, "web")
		if err != nil {
			return err
		}
		if _, err := Take(ctx, path, "web"); err == nil {
			t.Error("the same jail was given twice")
		}
		return o.Failed(errors.New("enough"))
	})
	if _, err := Take(t.Context(), path, "web"); err == nil {
		t.Error("a jail that nobody has ordered was given")
	}
	if _, err := l.Start(t.Context(), spec(t)); err == nil || err.Error() != "enough" {
		t.Error(err)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("socket: %v, %v", info.Mode(), err)
	}
}

func TestStartEndsWithItsContext(t *testing.T) {
	l, _ := launcher(t, func(ctx context.Context, _ string) error { <-ctx.Done(); return context.Cause(ctx) })
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := l.Start(ctx, spec(t)); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("start: %v", err)
	}
}

// A systemd that accepts and says nothing keeps nobody waiting without end, and a unit's
// process not at all.
func TestSilentSystemd(t *testing.T) {
	l, path := launcher(t, nil)
	dialed := make(chan struct{}, 2) // once more where both starts end at a time
	l.Dial = func(ctx context.Context) (Manager, error) {
		dialed <- struct{}{}
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-t.Context().Done():
			return nil, errors.New("the test is over")
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	started := make(chan error, 2)
	start := func() {
		_, err := l.Start(ctx, spec(t))
		started <- err
	}
	go start()
	<-dialed
	go start()
	soon, stop := context.WithTimeout(ctx, dialTime/2)
	defer stop()
	if _, err := Take(soon, path, "web"); err == nil || soon.Err() != nil {
		t.Errorf("a unit's process got %v, %v", err, soon.Err())
	}
	cancel()
	for range 2 {
		select {
		case err := <-started:
			if !errors.Is(err, context.Canceled) {
				t.Errorf("start: %v", err)
			}
		case <-time.After(20 * time.Second):
			t.Fatal("start waits without end")
		}
	}
}

func TestLimitsAreSetAndTakenBack(t *testing.T) {
	f := &fakeSystemd{}
	l, path := launcher(t, nil)
	l.Dial = func(context.Context) (Manager, error) { return f, nil }
	f.start = func(ctx context.Context, _ string) error {
		o, err := Take(ctx, path, "web")
		if err != nil {
			return err
		}
		return o.Failed(errors.New("enough"))
	}
	s := spec(t)
	s.Limits = jail.Limits{MemoryBytes: 1 << 30, CPUs: 3}
	if _, err := l.Start(t.Context(), s); err == nil || err.Error() != "enough" {
		t.Fatal(err)
	}
	if !f.stopped {
		t.Error("the unit that failed was not stopped")
	}
	want := []systemd.Property{{Name: "MemoryMax", Value: uint64(1 << 30)}, {Name: "CPUQuotaPerSecUSec", Value: uint64(3e6)}}
	if !slices.Equal(f.set, want) {
		t.Errorf("set %v, want %v", f.set, want)
	}
	if err := l.Forget(t.Context(), s.ID); err != nil || f.set != nil {
		t.Errorf("forget: %v, %v", err, f.set)
	}
}

// A VMM that ends before its unit has started leaves no unit that waits for it.
func TestForgottenUnitDoesNotStart(t *testing.T) {
	f := &fakeSystemd{}
	l, path := launcher(t, nil)
	l.Dial = func(context.Context) (Manager, error) { return f, nil }
	stuck, ended := make(chan struct{}), make(chan struct{})
	f.start = func(ctx context.Context, _ string) error {
		defer close(ended)
		o, err := Take(ctx, path, "web")
		if err != nil {
			return err
		}
		if err := o.Failed(errors.New("gone")); err != nil {
			return err
		}
		<-stuck
		return ctx.Err()
	}
	if _, err := l.Start(t.Context(), spec(t)); err == nil || err.Error() != "gone" {
		t.Fatal(err)
	}
	f.stopped = false
	if err := l.Forget(t.Context(), "web"); err != nil || !f.stopped {
		t.Errorf("forget while it starts: %v; stopped: %t", err, f.stopped)
	}
	close(stuck)
	<-ended
	f.stopped = false
	for begin := time.Now(); ; time.Sleep(time.Millisecond) {
		l.mu.Lock()
		left := len(l.starting)
		l.mu.Unlock()
		if left == 0 {
			break
		}
		if time.Since(begin) > 10*time.Second {
			t.Fatal("a job that is done is still awaited")
		}
	}
	if err := l.Forget(t.Context(), "web"); err != nil || f.stopped {
		t.Errorf("forget what has started: %v; stopped: %t", err, f.stopped)
	}
}

// A VMM that cannot be limited does not stay.
func TestLimitsThatCannotBeSet(t *testing.T) {
	f := &fakeSystemd{fails: errors.New("no such property")}
	l, path := launcher(t, nil)
	l.Dial = func(context.Context) (Manager, error) { return f, nil }
	f.start = func(ctx context.Context, _ string) error {
		o, err := Take(ctx, path, "web")
		if err == nil {
			_ = o.Built("/jails/web-1")
		}
		return err
	}
	s := spec(t)
	s.Limits.CPUs = 1
	if _, err := l.Start(t.Context(), s); !errors.Is(err, f.fails) || !f.stopped {
		t.Errorf("%v; stopped: %t", err, f.stopped)
	}
}

// An order that does not fit leaves no descriptor behind.
func TestOrderThatDoesNotFit(t *testing.T) {
	for name, c := range map[string]struct {
		text string
		fds  int
	}{
		"too many descriptors": {`{"Spec":{}}`, 2*jail.MaxDisks + 10},
		"too long":             {`{"Spec":{"ID":"` + strings.Repeat("a", maxMessage) + `"}}`, 2},
		"nonsense":             {`{`, 2},
	} {
		pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		ours := os.NewFile(uintptr(pair[0]), "ours")
		conn, err := net.FileConn(ours)
		ours.Close()
		if err != nil {
			t.Fatal(err)
		}
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		fds := slices.Repeat([]int{int(w.Fd())}, c.fds)
		if err := unix.Sendmsg(pair[1], []byte(c.text), unix.UnixRights(fds...), nil, 0); err != nil {
			t.Fatal(err)
		}
		w.Close()
		_, err = receive(conn.(*net.UnixConn), "web")
		if fits := name != "nonsense"; err == nil || fits && !strings.Contains(err.Error(), "does not fit") {
			t.Errorf("%s: %v", name, err)
		}
		r.SetReadDeadline(time.Now().Add(5 * time.Second))
		if _, err := r.Read(make([]byte, 1)); err != io.EOF {
			t.Errorf("%s: some descriptors are open: %v", name, err)
		}
		conn.Close()
		unix.Close(pair[1])
		r.Close()
	}
}

func FuzzAssemble(f *testing.F) {
	f.Add([]byte(`{"Spec":{"ID":"web"},"Initrd":true,"Disks":[{"ReadOnly":true}]}`), 4)
	f.Add([]byte(`{"Disks":[{"Origin":true}]}`), 4)
	f.Add([]byte(`{"Disks":[]}`), 2)
	f.Add([]byte(`{"Evil":1}`), 0)
	f.Fuzz(func(t *testing.T, text []byte, n int) {
		files := make([]*os.File, min(max(n, 0), 20))
		s, err := assemble(text, files)
		if err == nil && len(s.Disks) > len(files)-2 {
			t.Errorf("%d disks of %d files", len(s.Disks), len(files))
		}
	})
}
