package vm

import (
	"context"
	"errors"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"banger/personas/api"
)

func mustAddr(t testing.TB, s string) netip.Addr {
	t.Helper()
	a, err := netip.ParseAddr(s)
	must(t, err)
	return a
}

// crashIn leaves a VM in a state, as a daemon does that dies there: alive tells
// whether its VMM runs.
func (l *lab) crashIn(t *testing.T, rec Record, state api.State, alive bool) {
	t.Helper()
	v := l.create(t, rec)
	r, _, err := l.Records.Load()
	must(t, err)
	l.Close()
	if !alive {
		l.h.set(func() {
			for _, g := range l.h.leases {
				l.h.killLocked(g)
			}
		})
	}
	changed := r[v.ID]
	changed.State = state
	if state == api.Stopped {
		changed.PID = 0
	}
	must(t, l.Records.Save(v.ID, changed))
	l.load(t, filepath.Join(l.h.dir, "helper.sock"))
}

// What a daemon finds when it starts, and what becomes of it.
func TestReconcile(t *testing.T) {
	for _, c := range []struct {
		state api.State
		alive bool
		want  api.State // empty: nothing is left
	}{
		{api.Creating, false, ""},
		{api.Creating, true, ""},
		{api.Starting, false, api.Stopped},
		{api.Starting, true, api.Stopped},
		{api.Running, true, api.Running},
		{api.Running, false, api.Stopped},
		{api.Stopping, true, api.Stopped},
		{api.Stopping, false, api.Stopped},
		{api.Stopped, true, api.Stopped},
		{api.Stopped, false, api.Stopped},
		{api.Deleting, true, ""},
		{api.Deleting, false, ""},
	} {
		name := string(c.state) + ", gone"
		if c.alive {
			name = string(c.state) + ", alive"
		}
		t.Run(name, func(t *testing.T) {
			l := newLab(t)
			l.crashIn(t, l.spec("web"), c.state, c.alive)
			for range 2 { // once is enough, twice is no harm
				must(t, l.Reconcile(t.Context()))
				if c.want == "" {
					l.wantNothing(t)
				} else {
					l.wantState(t, "web", c.want)
				}
			}
			if c.want == "" {
				return
			}
			// Whatever it was, it can be used.
			_, err := l.Restart(t.Context(), "web", 0, ignore)
			must(t, err)
			l.wantState(t, "web", api.Running)
			must(t, l.Delete(t.Context(), "web", true))
			l.wantNothing(t)
		})
	}
}

// A VM that nobody was told of goes, however far its making had come.
func TestReconcileOfUnacknowledged(t *testing.T) {
	for _, state := range []api.State{api.Creating, api.Starting, api.Stopping, api.Deleting} {
		t.Run(string(state), func(t *testing.T) {
			l := newLab(t)
			l.crashIn(t, l.spec("web"), state, true)
			v, err := l.Show("web")
			must(t, err)
			recs, _, err := l.Records.Load()
			must(t, err)
			must(t, os.Remove(filepath.Join(l.Records.Path(v.ID), "record.json")))
			must(t, l.Records.Note(v.ID, recs[v.ID]))
			l.restart(t)
			must(t, l.Reconcile(t.Context()))
			l.wantNothing(t)
		})
	}
}

// Without the helper nothing is done to any VM, and with it everything is well:
// the one that came back late, too.
func TestReconcileComesLate(t *testing.T) {
	l := newLab(t)
	l.create(t, l.spec("web"))
	l.restart(t)
	l.h.set(func() { l.h.before = func(string) error { return os.ErrDeadlineExceeded } })
	if _, err := l.Create(t.Context(), l.spec("other"), ignore); err == nil {
		t.Error("a VM was created beside those that are not reconciled")
	}
	if err := l.Delete(t.Context(), "web", true); err == nil {
		t.Error("a VM was deleted that is not reconciled")
	}
	if v, err := l.Show("web"); err != nil || v.State != api.Running {
		t.Errorf("VM is %v, %v", v.State, err)
	}
	if _, err := l.Agent(t.Context(), "web"); err == nil || !strings.Contains(err.Error(), os.ErrDeadlineExceeded.Error()) {
		t.Errorf("a guest that cannot be reached without the helper: %v", err)
	}
	l.h.set(func() { l.h.before = nil })
	f, err := l.Agent(t.Context(), "web") // reconciles first
	must(t, err)
	f.Close()
	l.restart(t)
	_, err = l.Stop(t.Context(), "web", 0, ignore) // reconciles first
	must(t, err)
	l.wantState(t, "web", api.Stopped)
}

// A lease that no record names was taken by a daemon that died at once.
func TestStrayLeaseIsReleased(t *testing.T) {
	l := newLab(t)
	_, _, err := l.h.reserve(t.Context(), nil, struct{}{})
	must(t, err)
	must(t, l.Reconcile(t.Context()))
	l.wantNothing(t)
}

// A damaged record is told, and its VM is left alone until it is given up.
func TestDamagedRecord(t *testing.T) {
	l := newLab(t)
	v := l.create(t, l.spec("web"))
	good := l.create(t, l.spec("good"))
	l.Close()
	must(t, os.WriteFile(filepath.Join(l.Records.Path(v.ID), "record.json"), []byte(`{"id":`), 0o600))
	l.load(t, filepath.Join(l.h.dir, "helper.sock"))
	must(t, l.Reconcile(t.Context()))
	if l.h.count() != 2 {
		t.Errorf("%d leases are left, want that of the damaged VM too", l.h.count())
	}
	if !slices.ContainsFunc(l.List(), func(w api.VM) bool {
		return w.ID == v.ID && w.State == api.Damaged && w.Reason != ""
	}) {
		t.Errorf("the damaged VM is not told: %+v", l.List())
	}
	l.wantState(t, "good", api.Running)
	_, err := l.Start(t.Context(), v.ID, ignore)
	wantCode(t, err, api.CodeConflict)
	wantCode(t, l.Delete(t.Context(), v.ID, false), api.CodeConflict)
	if l.Uses("image", "anything") == "" {
		t.Error("an image may be deleted that the damaged VM may need")
	}
	must(t, l.Delete(t.Context(), v.ID, true))
	must(t, l.Delete(t.Context(), good.ID, true))
	l.wantNothing(t)
}

func TestRecordsThatLie(t *testing.T) {
	l := newLab(t)
	rec := l.spec("web")
	rec.Spec.Start = false
	v := l.create(t, rec)
	recs, _, err := l.Records.Load()
	must(t, err)
	for id, change := range map[string]func(*Record){
		"0000000000000001": func(*Record) {}, // another's id
		"0000000000000002": func(r *Record) { r.ID, r.State = "0000000000000002", "flying" },
		"0000000000000003": func(r *Record) { r.ID, r.Name = "0000000000000003", "../etc" },
		"ffffffffffffffff": func(r *Record) { r.ID = "ffffffffffffffff" }, // a name that is taken
	} {
		rec := recs[v.ID]
		change(&rec)
		must(t, l.Records.Save(id, rec))
	}
	l.restart(t)
	must(t, l.Reconcile(t.Context()))
	damaged := 0
	for _, v := range l.List() {
		if v.State == api.Damaged {
			damaged++
		}
	}
	if damaged != 4 || len(l.List()) != 5 {
		t.Errorf("%d of %d are damaged, want 4 of 5", damaged, len(l.List()))
	}
}

// A guest that powers off leaves a VM that is stopped, with its last words.
func TestVMThatEndsByItself(t *testing.T) {
	l := newLab(t)
	l.create(t, l.spec("web"))
	f, over, err := l.Serial(t.Context(), "web", true)
	must(t, err)
	defer f.Close()
	l.h.crash()
	<-over
	eventually(t, "its end", func() bool { v, _ := l.Show("web"); return v.State == api.Stopped })
	l.wantState(t, "web", api.Stopped)
	f, over, err = l.Serial(t.Context(), "web", true)
	must(t, err)
	defer f.Close()
	if text, err := io.ReadAll(f); err != nil || over != nil || string(text) != "Linux version 6\nlast words\n" {
		t.Errorf("kept log is %q, %v", text, err)
	}
	_, err = l.Start(t.Context(), "web", ignore)
	must(t, err)
}

// The log of a VM that is about to start can be read as far as it has come, and
// who follows it waits for it.
func TestLogOfStartingVM(t *testing.T) {
	l := newLab(t)
	rec := l.spec("web")
	rec.Spec.Start = false
	l.create(t, rec)
	_, _, err := l.Serial(t.Context(), "web", true)
	wantCode(t, err, api.CodeNotFound) // it has not run yet
	reached, goOn := make(chan string, 8), make(chan struct{})
	l.h.set(func() {
		l.h.manner = "silent"
		l.h.before = func(step string) error {
			if step == "VMStart" {
				reached <- step
				<-goOn
			}
			return nil
		}
	})
	ctx, cancel := context.WithCancel(t.Context())
	started := make(chan error, 1)
	go func() {
		_, err := l.Start(ctx, "web", ignore)
		started <- err
	}()
	<-reached // the helper knows its kernel not yet, and is asked again
	goOn <- struct{}{}
	<-reached
	f, over, err := l.Serial(t.Context(), "web", false)
	must(t, err)
	if text, err := io.ReadAll(f); err != nil || over != nil || len(text) > 0 {
		t.Errorf("without a VMM the log is %q, %v", text, err)
	}
	f.Close()
	hurried, hurry := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer hurry()
	if _, _, err := l.Serial(hurried, "web", true); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("waited for a log, and got %v", err)
	}
	close(goOn)
	for _, follow := range []bool{true, false} {
		f, over, err = l.Serial(t.Context(), "web", follow)
		must(t, err)
		if text, err := io.ReadAll(io.NewSectionReader(f, 0, 100)); err != nil || string(text) != "Linux version 6\nlast words\n" {
			t.Errorf("the log of a VM that starts is %q, %v", text, err)
		}
		f.Close()
	}
	cancel()
	if err := <-started; !errors.Is(err, context.Canceled) {
		t.Errorf("start: got %v", err)
	}
	<-over // it has ended with the VMM
	l.wantState(t, "web", api.Stopped)
}

// held is a VM that is to go with its holder.
func (l *lab) held(t testing.TB) api.VM {
	t.Helper()
	rec := l.spec("web")
	rec.Spec.AutoRemove = true
	return l.create(t, rec)
}

func TestAutoRemove(t *testing.T) {
	t.Run("its last holder goes", func(t *testing.T) {
		l := newLab(t)
		v := l.held(t)
		first, err := l.Hold(v.ID)
		must(t, err)
		second, err := l.Hold("web")
		must(t, err)
		first()
		l.wantState(t, "web", api.Running)
		second()
		l.wantNothing(t)
	})
	t.Run("it stops, and its holder looks at what is left", func(t *testing.T) {
		l := newLab(t)
		l.held(t)
		release, err := l.Hold("web")
		must(t, err)
		l.h.crash()
		eventually(t, "its end", func() bool { v, _ := l.Show("web"); return v.State == api.Stopped })
		release()
		l.wantNothing(t)
	})
	t.Run("nobody comes to hold it", func(t *testing.T) {
		l := newLab(t)
		l.ClaimTime = 50 * time.Millisecond
		l.held(t)
		eventually(t, "its end", l.gone("web"))
		l.wantNothing(t)
	})
	t.Run("a new daemon waits for its holder", func(t *testing.T) {
		l := newLab(t)
		l.held(t)
		_, err := l.Hold("web")
		must(t, err)
		l.claim = 2 * time.Second
		l.restart(t)
		must(t, l.Reconcile(t.Context()))
		release, err := l.Hold("web")
		must(t, err)
		time.Sleep(l.claim + 500*time.Millisecond) // longer than anybody waits
		l.wantState(t, "web", api.Running)
		release()
		l.wantNothing(t)
		l.held(t)
		l.restart(t)
		must(t, l.Reconcile(t.Context()))
		eventually(t, "its end", l.gone("web"))
		l.wantNothing(t)
	})
	t.Run("a detached one goes when it stops", func(t *testing.T) {
		l := newLab(t)
		l.ClaimTime = time.Millisecond // is not for it
		for _, end := range []func(){
			func() { l.h.crash() },
			func() { l.Stop(t.Context(), "web", 0, ignore) },
			func() { l.Kill(t.Context(), "web") },
			func() { l.restart(t); l.h.crash(); l.Reconcile(t.Context()) },
		} {
			rec := l.spec("web")
			rec.Spec.AutoRemove, rec.Spec.Unheld = true, true
			l.create(t, rec)
			time.Sleep(20 * time.Millisecond)
			l.wantState(t, "web", api.Running)
			end()
			eventually(t, "its end", l.gone("web"))
			l.wantNothing(t)
		}
	})
}

// A VM may end between the helper's list and its adoption.
func TestVMThatEndsWhileItIsAdopted(t *testing.T) {
	l := newLab(t)
	l.create(t, l.spec("web"))
	l.restart(t)
	l.h.set(func() {
		l.h.before = func(step string) error {
			if step == "VMReconnect" {
				l.h.crash()
				eventually(t, "its end", l.h.idle)
			}
			return nil
		}
	})
	must(t, l.Reconcile(t.Context()))
	l.wantState(t, "web", api.Stopped)
	_, err := l.Start(t.Context(), "web", ignore)
	must(t, err)
}

// Close waits for what works, lets VMs go on, and ends what waits for them.
func TestCloseWithClaimsAndWatchers(t *testing.T) {
	l := newLab(t)
	l.held(t)
	l.create(t, l.spec("other"))
	release, err := l.Hold("web")
	must(t, err)
	closed := make(chan struct{})
	go func() { l.Close(); close(closed) }()
	select {
	case <-closed:
	case <-time.After(5 * time.Second):
		t.Fatal("close waits for ever")
	}
	release() // too late: it must neither hang nor delete
	if l.h.count() != 2 {
		t.Errorf("%d VMs are left, want 2", l.h.count())
	}
	l.load(t, filepath.Join(l.h.dir, "helper.sock"))
	must(t, l.Reconcile(t.Context()))
	l.wantState(t, "web", api.Running)
	l.wantState(t, "other", api.Running)
}
