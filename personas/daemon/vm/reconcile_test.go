package vm

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"banger/personas/api"
)

// damage makes one VM and its record a damaged one, which a daemon that has just come
// finds, and returns its id. Giving it up makes the daemon reconcile again.
func (l *lab) damage(t *testing.T) (id string) {
	t.Helper()
	id = l.create(t, l.spec("damaged")).ID
	l.Close()
	must(t, os.WriteFile(filepath.Join(l.Records.Path(id), "record.json"), []byte(`{"id":`), 0o600))
	l.load(t, filepath.Join(l.h.dir, "helper.sock"))
	must(t, l.Reconcile(t.Context()))
	return id
}

// What is reserved while a daemon reconciles once more is nobody's stray lease, and
// stays in its record.
func TestReconcileBesideOperations(t *testing.T) {
	for _, at := range []string{"lease is made", "list is made"} {
		t.Run(at, func(t *testing.T) {
			l := newLab(t)
			rec := l.spec("web")
			rec.Spec.Start = false
			l.create(t, rec)
			id := l.damage(t)
			l.h.reboot()
			starts, goOn, over := make(chan bool, 1), make(chan bool), make(chan bool)
			end := sync.OnceFunc(func() { close(over) })
			deleted, started := make(chan error, 1), make(chan error, 1)
			l.h.set(func() {
				l.h.before = func(step string) error {
					switch {
					case step == "BootFiles":
						starts <- true
						<-goOn
					case step == "lease is made" && at == step:
						go func() { deleted <- l.Delete(t.Context(), id, true) }()
						wait(over)
					case step == "list is made" && at == step:
						l.h.set(func() { l.h.before = nil })
						close(goOn)
						wait(over)
					case step == "VMRelease":
						end()
					}
					return nil
				}
			})
			go func() {
				_, err := l.Start(t.Context(), "web", ignore)
				if at == "list is made" {
					end()
				}
				started <- err
			}()
			<-starts
			if at == "list is made" {
				deleted <- l.Delete(t.Context(), id, true)
			} else {
				close(goOn)
			}
			must(t, <-started)
			must(t, <-deleted)
			l.wantState(t, "web", api.Running)
			if l.h.count() != 1 {
				t.Errorf("%d leases, want one", l.h.count())
			}
		})
	}
}

// wait waits for what may never come.
func wait(c <-chan bool) {
	select {
	case <-c:
	case <-time.After(300 * time.Millisecond):
	}
}

// A VM whose adoption fails is adopted later.
func TestAdoptionIsTriedAgain(t *testing.T) {
	l := newLab(t)
	l.create(t, l.spec("web"))
	l.restart(t)
	l.h.refuseAt("VMReconnect")
	must(t, l.Reconcile(t.Context()))
	v, err := l.find("web")
	must(t, err)
	if _, err := v.running(); err == nil {
		t.Error("the VM is connected, though it was refused")
	}
	f, err := l.Agent(t.Context(), "web") // reconciles first
	must(t, err)
	f.Close()
	l.wantState(t, "web", api.Running)
}

// A lease that replaces one that is gone is in the record before a VMM starts with it.
func TestRenewedLeaseIsRecorded(t *testing.T) {
	l := newLab(t)
	rec := l.spec("web")
	rec.Spec.Start = false
	v := l.create(t, rec)
	l.h.reboot()
	l.h.set(func() {
		l.h.before = func(step string) error {
			if step == "InstanceStart" {
				recs, _, err := l.Records.Load()
				l.h.mu.Lock()
				defer l.h.mu.Unlock()
				if err != nil || l.h.leases[recs[v.ID].Lease.Handle] == nil {
					t.Errorf("the VMM runs, and the record has the lease %+v, %v", recs[v.ID].Lease, err)
				}
			}
			return nil
		}
	})
	_, err := l.Start(t.Context(), "web", ignore)
	must(t, err)
}

// A guest that cannot be reached now is not killed for it by who asks for a clean stop.
func TestStopDoesNotKillWhatCannotBeReached(t *testing.T) {
	l := newLab(t)
	l.create(t, l.spec("web"))
	l.restart(t)
	l.h.set(func() {
		l.h.before = func(step string) error {
			if step == "VMReconnect" {
				return unix.ENOSPC
			}
			return nil
		}
	})
	for what, end := range map[string]func() error{
		"stop":    func() error { _, err := l.Stop(t.Context(), "web", 0, ignore); return err },
		"restart": func() error { _, err := l.Restart(t.Context(), "web", 0, ignore); return err },
	} {
		if err := end(); err == nil || !strings.Contains(err.Error(), unix.ENOSPC.Error()) {
			t.Errorf("%s says %v", what, err)
		}
		if l.h.idle() {
			t.Fatalf("%s has ended the VMM", what)
		}
	}
	// One refusal is met by take, and the next try by stop itself, which asks the guest.
	l.h.refuseAt("VMReconnect")
	var told []api.Event
	_, err := l.Stop(t.Context(), "web", 0, func(e api.Event) { told = append(told, e) })
	must(t, err)
	if !slices.ContainsFunc(told, func(e api.Event) bool { return e.Step == "shutdown" }) {
		t.Errorf("the guest was not asked: %+v", told)
	}
	l.wantState(t, "web", api.Stopped)
}

// A VM that nobody holds goes, though the helper has failed when it was to go.
func TestDeletionIsTriedAgain(t *testing.T) {
	l := newLab(t)
	l.RetryTime = 10 * time.Millisecond
	l.held(t)
	release, err := l.Hold("web")
	must(t, err)
	l.h.refuseAt("VMRelease")
	release()
	eventually(t, "its end", l.gone("web"))
	l.wantNothing(t)
}

// Who waits for a helper that hangs waits no longer than he wants.
func TestReconcileOfHangingHelper(t *testing.T) {
	l := newLab(t)
	l.create(t, l.spec("web"))
	l.restart(t)
	asked, answer := make(chan struct{}), make(chan struct{})
	l.h.set(func() {
		l.h.before = func(string) error { close(asked); <-answer; return nil }
	})
	first := make(chan error, 1)
	go func() { first <- l.Reconcile(t.Context()) }()
	<-asked
	l.h.set(func() { l.h.before = nil })
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := l.Stop(ctx, "web", 0, ignore); !errors.Is(err, context.Canceled) {
		t.Errorf("stop says %v", err)
	}
	close(answer)
	must(t, <-first)
	l.wantState(t, "web", api.Running)
}
