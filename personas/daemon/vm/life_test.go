package vm

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"banger/personas/api"
)

func TestLifeOfVM(t *testing.T) {
	l := newLab(t)
	ctx := t.Context()
	v := l.create(t, l.spec("web"))
	l.wantState(t, "web", api.Running)
	if addr, ok := l.Lookup("web"); !ok || addr.String() != v.Address {
		t.Errorf("the name leads to %v, the VM has %s", addr, v.Address)
	}
	l.h.set(func() {
		if mtu := l.h.boots[0].Network.MTU; mtu != 1400 {
			t.Errorf("the guest was told an MTU of %d, its network has 1400", mtu)
		}
	})
	wantCode(t, l.Delete(ctx, "web", false), api.CodeConflict)
	again, err := l.Start(ctx, "web", ignore)
	must(t, err)
	if again.StartedAt != v.StartedAt {
		t.Errorf("a start of what runs has started it at %v, it ran since %v", again.StartedAt, v.StartedAt)
	}
	l.wantState(t, "web", api.Running)

	v, err = l.Stop(ctx, "web", 0, ignore)
	must(t, err)
	if v.Reason != "stopped" {
		t.Errorf("reason is %q", v.Reason)
	}
	l.wantState(t, "web", api.Stopped)
	if info, err := os.Stat(v.Disk); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("disk at rest: %v, %v", info, err)
	}
	_, err = l.Stop(ctx, "web", 0, ignore)
	must(t, err)
	_, err = l.Start(ctx, "web", ignore)
	must(t, err)
	_, err = l.Restart(ctx, "web", 0, ignore)
	must(t, err)
	l.wantState(t, "web", api.Running)
	for range 2 {
		_, err = l.Kill(ctx, "web")
		must(t, err)
		l.wantState(t, "web", api.Stopped)
	}
	_, err = l.Restart(ctx, "web", 0, ignore)
	must(t, err)
	l.wantState(t, "web", api.Running)
	must(t, l.Delete(ctx, "web", true))
	l.wantNothing(t)
	wantCode(t, l.Delete(ctx, "web", true), api.CodeNotFound)
	_, err = l.Start(ctx, "web", ignore)
	wantCode(t, err, api.CodeNotFound)
}

// A guest that does not shut down in time is killed, and one whose stop is too
// slow for somebody is killed at once.
func TestStopOfStubbornGuest(t *testing.T) {
	l := newLab(t)
	l.h.grace = true
	l.create(t, l.spec("web"))
	v, err := l.Stop(t.Context(), "web", 50*time.Millisecond, ignore)
	must(t, err)
	if !strings.HasPrefix(v.Reason, "killed: it took longer than") {
		t.Errorf("reason is %q", v.Reason)
	}
	l.wantState(t, "web", api.Stopped)
	_, err = l.Start(t.Context(), "web", ignore)
	must(t, err)
	stopped := make(chan error, 1)
	go func() {
		_, err := l.Stop(t.Context(), "web", time.Hour, ignore)
		stopped <- err
	}()
	eventually(t, "stopping", func() bool { v, _ := l.Show("web"); return v.State == api.Stopping })
	begin := time.Now()
	_, err = l.Kill(t.Context(), "web")
	must(t, err)
	must(t, <-stopped)
	if took := time.Since(begin); took > 5*time.Second {
		t.Errorf("kill waited %v for a stop", took)
	}
	l.wantState(t, "web", api.Stopped)
}

// Whatever step fails, nothing of the VM is left, and the name is free again.
func TestFailedCreateLeavesNothing(t *testing.T) {
	l := newLab(t)
	for _, step := range []string{"VMReserve", "BootFiles", "Reconcile", "KernelPut", "VMStart", "InstanceStart", "VMSeal"} {
		l.h.set(func() { clear(l.h.kernels) })
		must(t, l.Reconcile(t.Context()))
		l.h.refuseAt(step)
		_, err := l.Create(t.Context(), l.spec("web"), ignore)
		if err == nil || !strings.Contains(err.Error(), "refused at "+step) {
			t.Errorf("%s: got %v", step, err)
		}
		l.wantNothing(t)
	}
	for manner, want := range map[string]string{
		"dead": "the VMM exited", "broken": "no root disk", "rude": "protocol violation",
	} {
		l.h.set(func() { l.h.manner = manner })
		_, err := l.Create(t.Context(), l.spec("web"), ignore)
		var e *api.Error
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s guest: got %v, want a word of %q", manner, err, want)
		} else if !errors.As(err, &e) || !strings.Contains(e.HintText, "last words") {
			t.Errorf("%s guest: the console's end is not in the hint of %+v", manner, e)
		}
		l.wantNothing(t)
	}
	l.h.set(func() { l.h.manner = "" })
	rec := l.spec("web")
	rec.Image.Path = "/nonexistent"
	if _, err := l.Create(t.Context(), rec, ignore); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("image that is gone: got %v", err)
	}
	l.wantNothing(t)
	l.create(t, l.spec("web"))
}

// A VMM that exits once it is started, and is sealed too late, is told by its last words.
func TestVMMThatIsGoneBeforeItsSeal(t *testing.T) {
	l := newLab(t)
	l.h.set(func() {
		l.h.manner = "silent"
		l.h.before = func(step string) error {
			if step == "VMSeal" {
				l.h.crash()
				eventually(t, "its end", l.h.idle)
			}
			return nil
		}
	})
	_, err := l.Create(t.Context(), l.spec("web"), ignore)
	var e *api.Error
	if !errors.As(err, &e) || !strings.Contains(e.Message, "the VMM exited") {
		t.Errorf("got %v", err)
	}
	l.wantNothing(t)
}

// A VMM that accepts and never answers holds up no start, and is gone afterwards.
func TestSilentVMMIsGivenUp(t *testing.T) {
	for _, when := range []string{"at once", "at InstanceStart"} {
		l := newLab(t)
		l.ConfigureTime = 100 * time.Millisecond
		over := make(chan struct{})
		l.h.set(func() {
			if when == "at once" {
				l.h.manner = "mute"
				return
			}
			l.h.before = func(step string) error {
				if step == "InstanceStart" {
					<-over
					return errors.New("the test is over")
				}
				return nil
			}
		})
		_, err := l.Create(t.Context(), l.spec("web"), ignore)
		wantCode(t, err, api.CodeTimeout)
		if err == nil || !strings.Contains(err.Error(), "the VMM did not answer within 100ms") {
			t.Errorf("silent %s: got %v", when, err)
		}
		l.wantNothing(t)
		rec := l.spec("web")
		rec.Spec.Start = false
		l.create(t, rec)
		_, err = l.Start(t.Context(), "web", ignore)
		wantCode(t, err, api.CodeTimeout)
		l.wantState(t, "web", api.Stopped)
		close(over)
	}
}

// What cannot be taken down stays visible, and goes with the next delete.
func TestFailedRemovalIsRepeated(t *testing.T) {
	l := newLab(t)
	l.create(t, l.spec("web"))
	l.h.refuseAt("VMRelease")
	if err := l.Delete(t.Context(), "web", true); err == nil {
		t.Fatal("a delete that was refused is no error")
	}
	if v, err := l.Show("web"); err != nil || v.State != api.Deleting {
		t.Errorf("VM is %v, %v", v.State, err)
	}
	_, err := l.Start(t.Context(), "web", ignore)
	wantCode(t, err, api.CodeConflict)
	must(t, l.Delete(t.Context(), "web", false))
	l.wantNothing(t)

	l.create(t, l.spec("web"))
	l.h.refuseAt("VMStop")
	if _, err := l.Kill(t.Context(), "web"); err == nil {
		t.Fatal("a kill that was refused is no error")
	}
	_, err = l.Stop(t.Context(), "web", 0, ignore)
	must(t, err)
	l.wantState(t, "web", api.Stopped)
	_, err = l.Start(t.Context(), "web", ignore)
	must(t, err)
}

// A client that goes away takes with it what it asked for, at whatever point.
func TestCancelledCreateLeavesNothing(t *testing.T) {
	l := newLab(t)
	for _, at := range []string{
		"VMReserve", "BootFiles", "Reconcile", "KernelPut", "VMStart", "InstanceStart", "VMSeal", "Ready", // the helper's and the guest's
		"disk", "vmm", "kernel", "guest", // what the client is told
	} {
		l.h.set(func() { clear(l.h.kernels) })
		must(t, l.Reconcile(t.Context()))
		ctx, cancel := context.WithCancel(t.Context())
		l.h.set(func() {
			l.h.before = func(step string) error {
				if step == at {
					cancel()
				}
				return nil
			}
		})
		_, err := l.Create(ctx, l.spec("web"), func(e api.Event) {
			if e.Step == at {
				cancel()
			}
		})
		if !errors.Is(err, context.Canceled) {
			t.Errorf("cancelled at %s: got %v", at, err)
		}
		l.wantNothing(t)
	}
}

// An emulated kernel that hangs is started again, once. Others are waited for.
func TestSilentGuestIsStartedAgain(t *testing.T) {
	for _, tt := range []struct {
		emulated bool
		hangs    int32 // how many of the guest's starts
		starts   int32
		up       bool
	}{
		{emulated: true, hangs: 1, starts: 2, up: true},
		{emulated: true, hangs: 2, starts: 2},
		{emulated: false, hangs: 1, starts: 1},
	} {
		l := newLab(t)
		l.SilentTime = 200 * time.Millisecond
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		var starts atomic.Int32
		l.h.set(func() {
			l.h.before = func(step string) error {
				if step == "InstanceStart" {
					n := starts.Add(1)
					l.h.set(func() {
						l.h.manner = ""
						if n <= tt.hangs {
							l.h.manner = "silent"
						}
					})
					if n == tt.starts && !tt.up { // long enough for one more start
						time.AfterFunc(4*l.SilentTime, cancel)
					}
				}
				return nil
			}
		})
		rec := l.spec("web")
		rec.Emulated = tt.emulated
		var notices []string
		_, err := l.Create(ctx, rec, func(e api.Event) { notices = append(notices, e.Notice) })
		cancel()
		again := slices.ContainsFunc(notices, func(n string) bool { return strings.Contains(n, "said nothing for 200ms") })
		if again != tt.emulated {
			t.Errorf("%+v: notices %q", tt, notices)
		}
		if tt.up {
			must(t, err)
			l.wantState(t, "web", api.Running)
		} else {
			if err == nil {
				t.Errorf("%+v: the VM runs", tt)
			}
			l.wantNothing(t)
		}
		if got := starts.Load(); got != tt.starts {
			t.Errorf("%+v: started %d times", tt, got)
		}
	}
}

// Deleting or killing does not wait for a guest that may never come up.
func TestSeizeWhileStarting(t *testing.T) {
	for what, end := range map[string]func(*lab) error{
		"deleted": func(l *lab) error { return l.Delete(t.Context(), "web", true) },
		"killed":  func(l *lab) error { _, err := l.Kill(t.Context(), "web"); return err },
	} {
		l := newLab(t)
		rec := l.spec("web")
		rec.Spec.Start = false
		l.create(t, rec)
		l.h.set(func() { l.h.manner = "silent" })
		started := make(chan error, 2)
		for range 2 { // the second one waits its turn, and gets none
			go func() {
				_, err := l.Start(t.Context(), "web", ignore)
				started <- err
			}()
		}
		eventually(t, "starting", func() bool { v, _ := l.Show("web"); return v.PID != 0 })
		begin := time.Now()
		must(t, end(l))
		if took := time.Since(begin); took > 5*time.Second {
			t.Errorf("%s after %v", what, took)
		}
		if err := <-started; err == nil {
			t.Errorf("%s: the start that was under way succeeded", what)
		}
		if what == "deleted" {
			if err := <-started; err == nil {
				t.Error("a VM that is gone was started")
			}
			l.wantNothing(t)
		}
	}
}

// A creation is ended by a delete as a start is.
func TestDeleteWhileCreating(t *testing.T) {
	l := newLab(t)
	l.h.set(func() { l.h.manner = "silent" })
	created := make(chan error, 1)
	go func() {
		_, err := l.Create(t.Context(), l.spec("web"), ignore)
		created <- err
	}()
	eventually(t, "starting", func() bool { v, _ := l.Show("web"); return v.State == api.Starting })
	if err := l.Delete(t.Context(), "web", true); err != nil {
		wantCode(t, err, api.CodeNotFound) // the creator was faster to take it down
	}
	wantCode(t, <-created, api.CodeConflict)
	l.wantNothing(t)
}

func TestOneNameOneVM(t *testing.T) {
	l := newLab(t)
	var wg sync.WaitGroup
	var mu sync.Mutex
	made := 0
	for range 8 {
		wg.Go(func() {
			_, err := l.Create(t.Context(), l.spec("web"), ignore)
			mu.Lock()
			defer mu.Unlock()
			if err == nil {
				made++
			} else {
				wantCode(t, err, api.CodeConflict)
			}
		})
	}
	wg.Wait()
	if made != 1 || len(l.List()) != 1 || l.h.count() != 1 {
		t.Errorf("%d made, %d listed, %d leases", made, len(l.List()), l.h.count())
	}
}

// A name that looks like another VM's id leads to no other VM.
func TestNamesAndIDs(t *testing.T) {
	l := newLab(t)
	rec := l.spec("a")
	rec.Spec.Start = false
	a := l.create(t, rec)
	rec.Spec.Name, rec.Spec.Net = a.ID, api.NetNone
	b := l.create(t, rec)
	for name, want := range map[string]string{"a": a.ID, a.ID: a.ID, b.ID: b.ID, b.ID[:8]: b.ID} {
		if v, err := l.Show(name); err != nil || v.ID != want {
			t.Errorf("%s is VM %s, want %s: %v", name, v.ID, want, err)
		}
	}
	for _, name := range []string{"", "b", a.ID[:5], a.ID + "0"} {
		_, err := l.Show(name)
		wantCode(t, err, api.CodeNotFound)
	}
	if _, ok := l.Lookup(b.Name); ok || b.Address != "" {
		t.Error("a VM without a network has an address")
	}
	if name, ok := l.Reverse(mustAddr(t, a.Address)); !ok || name != "a" {
		t.Errorf("the address leads to %q", name)
	}
	if l.Uses("image", "image") == "" || l.Uses("kernel", "kernel") == "" || l.Uses("image", "kernel") != "" {
		t.Error("what is in use is not told")
	}
}

func TestCreateWithoutSpace(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root to mount a small file system")
	}
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=8m"); err != nil {
		t.Skipf("needs to mount a tmpfs: %v", err)
	}
	t.Cleanup(func() { unix.Unmount(dir, unix.MNT_DETACH) })
	l := newLabIn(t, dir)
	_, err := l.Create(t.Context(), l.spec("web"), ignore)
	wantCode(t, err, api.CodeNoSpace)
	l.wantNothing(t)
}

// A VM comes and goes without a trace in the daemon: no descriptor, no goroutine.
func TestLifeLeaksNothing(t *testing.T) {
	l := newLab(t)
	cycle := func(i int) {
		v := l.create(t, l.spec(fmt.Sprint("web-", i)))
		if f, err := l.Agent(t.Context(), v.ID); err != nil {
			t.Fatal(err)
		} else {
			f.Close()
		}
		switch i % 4 {
		case 0:
			_, err := l.Stop(t.Context(), v.ID, 0, ignore)
			must(t, err)
		case 1:
			l.h.crash()
			eventually(t, "the end", func() bool { v, _ := l.Show(v.ID); return v.State == api.Stopped })
		case 2:
			l.h.set(func() { l.h.manner = "broken" })
			if _, err := l.Restart(t.Context(), v.ID, 0, ignore); err == nil {
				t.Error("a broken guest has started")
			}
			l.h.set(func() { l.h.manner = "" })
		}
		must(t, l.Delete(t.Context(), v.ID, true))
	}
	for i := range 8 {
		cycle(i)
	}
	fds, routines := count(t), runtime.NumGoroutine()
	for i := range 40 {
		cycle(i)
	}
	l.wantNothing(t)
	eventually(t, fmt.Sprintf("%d descriptors and %d goroutines", fds, routines), func() bool {
		return count(t) <= fds && runtime.NumGoroutine() <= routines
	})
}

func count(t testing.TB) int {
	entries, err := os.ReadDir("/proc/self/fd")
	must(t, err)
	return len(entries)
}

// The room of what was deleted is there for the next one, though nobody has waited
// until it is free.
func TestRoomOfTheDeleted(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root to mount a small tmpfs")
	}
	dir := t.TempDir()
	const room = 64 << 20 // beside the reserve
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprintf("size=%d", reserveBytes+room)); err != nil {
		t.Skipf("needs to mount a tmpfs: %v", err)
	}
	t.Cleanup(func() { unix.Unmount(dir, unix.MNT_DETACH) })
	l := newLabIn(t, filepath.Join(dir, "store"))
	l.image.Bytes = room * 3 / 4
	must(t, os.Chmod(l.image.Path, 0o600))
	must(t, os.WriteFile(l.image.Path, make([]byte, l.image.Bytes), 0o600))
	l.image.Seal = sealFile(t, l.image.Path)
	rec := l.spec("web")
	rec.Spec.Start = false
	for range 5 {
		l.create(t, rec)
		must(t, l.Delete(t.Context(), "web", false))
	}
}
