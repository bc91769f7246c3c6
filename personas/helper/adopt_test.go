package helper

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"banger/ops"
)

// poor is a context of which the first look says that there are too few descriptors:
// whatever looks first fails, and would not a moment later.
type poor struct {
	context.Context
	looked bool
}

func (c *poor) Err() error {
	if !c.looked {
		c.looked = true
		return unix.EMFILE
	}
	return c.Context.Err()
}

// A VMM that a new helper cannot adopt for a passing reason runs on, is known to run, and
// is adopted by whoever wants something of it; it can be stopped all the same.
func TestAdoptionThatFailsKillsNobody(t *testing.T) {
	l := newLab(t)
	r := l.reserved(t, "a")
	disk := l.disk(t)
	for name, want := range map[string]struct {
		ask  func() (ops.VMStartReply, []*os.File, error)
		runs bool
	}{
		"reconnect": {func() (ops.VMStartReply, []*os.File, error) {
			return l.reconnect(t.Context(), nil, l.handle(r))
		}, true},
		"start again": {func() (ops.VMStartReply, []*os.File, error) {
			return l.start(t.Context(), &ops.Call{ID: "start", Files: []*os.File{disk}}, l.args(t, r, "ok"))
		}, true},
		"stop": {func() (ops.VMStartReply, []*os.File, error) {
			_, _, err := l.stop(t.Context(), nil, l.handle(r))
			return ops.VMStartReply{}, nil, err
		}, false},
	} {
		t.Run(name, func(t *testing.T) {
			reply, err := l.run(t, r, "start", "ok", disk)
			must(t, err)
			must(t, r.process.Load().Close())
			l.spare.Relax()
			l.machines = newMachines(t, l.dir, l.net)
			r = l.table.all()[0]
			if err := l.adopt(&poor{Context: t.Context()}); !errors.Is(err, unix.EMFILE) {
				t.Fatalf("adopt says %v", err)
			}
			if pids := processesOf(t, testUIDs); len(pids) == 0 {
				t.Fatal("the VMM was killed")
			}
			_, files, err := l.machines.reconcile(t.Context(), nil, ops.None{})
			must(t, err)
			var told []ops.Reservation
			must(t, json.NewDecoder(files[0]).Decode(&told))
			files[0].Close()
			if l.running() != 1 || len(told) != 1 || !told[0].Running {
				t.Errorf("%d run, and the daemon hears %+v", l.running(), told)
			}
			got, files, err := want.ask()
			must(t, err)
			for _, f := range files {
				f.Close()
			}
			if want.runs && got != reply || (l.running() == 1) != want.runs {
				t.Errorf("got %+v, before %+v; %d run", got, reply, l.running())
			}
			_, _, err = l.stop(t.Context(), nil, l.handle(r))
			must(t, err)
			l.wantNothing(t)
		})
	}
}

// A VMM that has ended since it could not be adopted is gone, and leaves nothing.
func TestAdoptionThatComesTooLate(t *testing.T) {
	l := newLab(t)
	r := l.reserved(t, "a")
	_, err := l.run(t, r, "start", "ok", l.disk(t))
	must(t, err)
	p := r.process.Load()
	l.machines = newMachines(t, l.dir, l.net)
	r = l.table.all()[0]
	if err := l.adopt(&poor{Context: t.Context()}); !errors.Is(err, unix.EMFILE) {
		t.Fatalf("adopt says %v", err)
	}
	must(t, p.Kill())
	<-p.Exited()
	_, _, err = l.reconnect(t.Context(), nil, l.handle(r))
	wantCode(t, err, ops.Conflict)
	if l.running() != 0 {
		t.Error("it counts as running")
	}
	_, _, err = l.stop(t.Context(), nil, l.handle(r))
	must(t, err)
	l.wantNothing(t)
	must(t, p.Close())
}

// A reservation that cannot be read right now is not given up for that.
func TestReservationThatCannotBeRead(t *testing.T) {
	dir := t.TempDir()
	kept := filepath.Join(dir, "00000001.json")
	must(t, os.Mkdir(kept, 0o700)) // reading it fails, for root, too
	if _, err := loadTable(dir, slog.New(slog.DiscardHandler)); err == nil {
		t.Error("it was loaded")
	}
	if _, err := os.Stat(kept); err != nil {
		t.Errorf("it was removed: %v", err)
	}
}
