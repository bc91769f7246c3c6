package helper

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"banger/fc/jail"
)

// undo is clear after a start that has failed, also for want of time.
func (m *machines) undo(ctx context.Context, r *reservation) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTime)
	defer cancel()
	return m.clear(ctx, r)
}

// undoTime bounds undo.
const undoTime = 30 * time.Second

// clear kills the VMM of r, whose token the caller has, and removes its jail and
// tap. Its disks are free afterwards, and not before the process and a snapshot of
// theirs are gone. It does as much as it can and joins what went wrong: a VMM that cannot
// be ended may be left without its tap.
func (m *machines) clear(ctx context.Context, r *reservation) error {
	if !r.used {
		return nil
	}
	// The tap goes beside the VMM: what is on its way through it nobody waits for.
	var tapErr error
	var beside sync.WaitGroup
	beside.Go(func() { tapErr = m.net.RemoveTap(ctx, r.rec.Slot) })
	err := m.endAll(ctx, r)
	beside.Wait()
	if err != nil {
		return errors.Join(err, tapErr)
	}
	err = tapErr
	if m.forget != nil {
		// A limit that stays bounds nobody, and is set anew at the next start.
		if ferr := m.forget(ctx, r.rec.ID); ferr != nil {
			m.log.Warn("take back what was set for a VM's unit, ignoring", "vm", r.rec.ID, "error", ferr)
		}
	}
	if r.rec.Disks != nil { // else nothing is to be recorded
		m.table.unclaim(r)
		err = errors.Join(err, m.table.save(r))
	}
	r.used = err != nil
	return err
}

// endAll ends every VMM of r and removes their jails, and returns when the disks are free.
func (m *machines) endAll(ctx context.Context, r *reservation) error {
	if p := r.process.Load(); p != nil {
		if err := end(ctx, p); err != nil {
			return err
		}
		r.process.Store(nil)
	}
	if err := m.evict(ctx, r); err != nil {
		return err
	}
	r.unproven.Store(false)
	return r.awaitSnapshot(ctx)
}

// end kills a VMM, waits until it is gone, and removes its jail.
func end(ctx context.Context, p *jail.Process) error {
	if err := p.Kill(); err != nil {
		return err
	}
	if _, err := p.Wait(ctx); err != nil {
		return fmt.Errorf("wait for killed VMM: %w", err)
	}
	return p.Release()
}

// evict ends what lives in jails of r that no process is known of: adopt could
// not tell whose it was, or somebody was killed in the midst of a start.
func (m *machines) evict(ctx context.Context, r *reservation) error {
	paths, err := jail.List(m.jails)
	if err != nil {
		return err
	}
	var errs []error
	for _, path := range paths {
		if jailOf(path, r) {
			errs = append(errs, m.demolish(ctx, path))
		}
	}
	return errors.Join(errs...)
}

// demolish ends the VMM of a jail, if there is one, and removes the jail.
func (m *machines) demolish(ctx context.Context, path string) error {
	p, err := jail.Adopt(ctx, path)
	if errors.Is(err, jail.ErrGone) {
		return jail.Remove(ctx, path)
	}
	if err != nil {
		return err
	}
	return end(ctx, p)
}

// jailOf reports whether a jail was made for r: its name begins with the VM's id.
func jailOf(path string, r *reservation) bool {
	return isJailOf(path, r.rec.ID)
}

func isJailOf(path, id string) bool {
	return strings.HasPrefix(filepath.Base(path), id+"-")
}

// adopt finds the VMMs that an earlier helper had started, and removes what is
// left of those that are gone, and what belongs to no reservation. A VMM that it
// cannot adopt for want of memory or descriptors is left alone: it may well run.
func (m *machines) adopt(ctx context.Context) error {
	paths, err := jail.List(m.jails)
	if err != nil {
		return err
	}
	var errs []error
	for _, path := range paths {
		errs = append(errs, m.adoptJail(ctx, path))
	}
	for _, r := range m.table.all() {
		if r.process.Load() == nil && !r.unproven.Load() {
			errs = append(errs, r.with(ctx, func() error { return m.clear(ctx, r) }))
		}
	}
	return errors.Join(append(errs, m.removeStrayTaps(ctx))...)
}

func (m *machines) adoptJail(ctx context.Context, path string) error {
	for _, r := range m.table.all() {
		if jailOf(path, r) && r.process.Load() == nil {
			return r.adopt(ctx, path)
		}
	}
	return m.demolish(ctx, path) // nobody can ask for it any more
}

// adopt takes over the VMM of a jail of r, or removes the jail of one that is gone.
func (r *reservation) adopt(ctx context.Context, path string) error {
	p, err := jail.Adopt(ctx, path)
	if errors.Is(err, jail.ErrGone) {
		return jail.Remove(ctx, path)
	}
	if err != nil {
		r.unproven.Store(true)
		return err
	}
	r.process.Store(p)
	return nil
}

// prove adopts what adopt could not, for who wants something of r, whose token he has.
func (m *machines) prove(ctx context.Context, r *reservation) error {
	if !r.unproven.Load() {
		return nil
	}
	paths, err := jail.List(m.jails)
	if err != nil {
		return err
	}
	var errs []error
	for _, path := range paths {
		if jailOf(path, r) && r.process.Load() == nil {
			errs = append(errs, r.adopt(ctx, path))
		}
	}
	// Not before: who asks meanwhile what runs must not hear that this one does not.
	err = errors.Join(errs...)
	r.unproven.Store(err != nil)
	return err
}

// removeStrayTaps removes the devices of slots that nobody has reserved.
func (m *machines) removeStrayTaps(ctx context.Context) error {
	taps, err := m.net.Taps(ctx)
	if err != nil {
		return err
	}
	reserved := make(map[int]bool)
	for _, r := range m.table.all() {
		reserved[r.rec.Slot] = true
	}
	var errs []error
	for _, t := range taps {
		if !reserved[t.Slot] {
			errs = append(errs, m.net.RemoveTap(ctx, t.Slot))
		}
	}
	return errors.Join(errs...)
}

// sweep clears away VMMs that have exited and that nobody has asked about: no
// daemon may ever come.
func (m *machines) sweep(ctx context.Context) error {
	var errs []error
	for _, r := range m.table.all() {
		if p := r.process.Load(); p == nil || !exited(p) {
			continue
		}
		errs = append(errs, r.with(ctx, func() error {
			if r.runs() {
				return nil
			}
			return m.clear(ctx, r)
		}))
	}
	return errors.Join(errs...)
}
