package vm

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"

	"banger/ops"
	"banger/personas/api"
	"banger/store"
)

// Load reads the records. Those that cannot be read, or that cannot be what they
// say, stay untouched and are told.
func (s *Set) Load(ctx context.Context) ([]store.Damage, error) {
	recs, damaged, err := s.Records.Load()
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.reconciling = make(chan struct{}, 1)
	s.open, s.shut = context.WithCancel(context.WithoutCancel(ctx))
	s.vms, s.names, s.damaged = make(map[string]*VM), make(map[string]*VM), make(map[string]store.Damage)
	good, liars := sound(s.Records, recs)
	for _, rec := range good {
		v := newVM(rec)
		s.vms[rec.ID], s.names[rec.Name] = v, v
		s.unsettled = append(s.unsettled, v)
	}
	damaged = append(damaged, liars...)
	for _, d := range damaged {
		s.damaged[d.ID] = d
	}
	return damaged, nil
}

// Look tells which records cannot be read, or cannot be what they say. It changes
// nothing.
func Look(records *store.Records[Record]) ([]store.Damage, error) {
	recs, damaged, err := records.Look()
	if err != nil {
		return nil, err
	}
	_, liars := sound(records, recs)
	return append(damaged, liars...), nil
}

// sound parts the records that can be what they say, by id, from the others.
func sound(records *store.Records[Record], recs map[string]Record) (good []Record, liars []store.Damage) {
	names := make(map[string]string) // of ids
	for _, id := range slices.Sorted(maps.Keys(recs)) {
		rec := recs[id]
		err := rec.check(id)
		if other, taken := names[rec.Name]; err == nil && taken {
			err = fmt.Errorf("it has the name of VM %s", other)
		}
		if err != nil {
			err = fmt.Errorf("load record %s: %w: %v", records.Path(id), store.ErrCorrupt, err)
			liars = append(liars, store.Damage{ID: id, Path: records.Path(id), Err: err})
			continue
		}
		names[rec.Name] = id
		good = append(good, rec)
	}
	return good, liars
}

// Reconcile brings world and records together, once: what runs is adopted, what
// was half made is removed, what was half removed is finished. It needs the
// helper; until it has succeeded no VM is worked on. What could not be settled alone is
// tried again with the next operation.
func (s *Set) Reconcile(ctx context.Context) error {
	unlock, err := s.lockReconciling(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	return s.reconcileLocked(ctx)
}

// lockReconciling takes the token of the reconciliation, for whose end the caller waits
// no longer than ctx: a helper may hang.
func (s *Set) lockReconciling(ctx context.Context) (unlock func(), err error) {
	select {
	case s.reconciling <- struct{}{}:
		return func() { <-s.reconciling }, nil
	case <-ctx.Done():
		return nil, fmt.Errorf("wait for the helper to say what runs: %w", context.Cause(ctx))
	}
}

func (s *Set) reconcileLocked(ctx context.Context) error {
	if s.reconciled {
		return nil
	}
	// Whoever has a token works on his VM already, with what he knows of it.
	var vms, left []*VM
	for _, v := range s.unsettled {
		select {
		case v.busy <- struct{}{}:
			defer v.release()
			vms = append(vms, v)
		default:
			left = append(left, v)
		}
	}
	held, strays, err := s.strays(ctx)
	if err != nil {
		return err
	}
	// Half done helps nobody, and the helper answers: from here on to the end.
	ctx = context.WithoutCancel(ctx)
	for _, v := range vms {
		if err := s.settle(ctx, v, held); err != nil {
			rec := v.record()
			s.Log.Error("reconcile VM", "vm", rec.Name, "state", rec.State, "error", err)
			left = append(left, v)
		}
	}
	s.unsettled, s.reconciled = left, len(left) == 0
	s.mu.Lock()
	damaged := len(s.damaged)
	s.mu.Unlock()
	if damaged > 0 {
		s.Log.Warn("keep what the helper holds for nobody: it may be that of damaged records", "reservations", len(strays))
		return nil
	}
	for _, handle := range strays { // reserved, and then the daemon died
		if _, _, err := ops.VMRelease.Call(ctx, s.Helper, ops.HandleArgs{Handle: handle}); err != nil {
			s.Log.Error("release what no VM knows of", "error", err)
		}
	}
	return nil
}

// strays asks the helper for what it holds, and returns also the handles that no record
// names.
func (s *Set) strays(ctx context.Context) (held map[string]ops.Reservation, strays []string, err error) {
	s.leasing.Lock()
	defer s.leasing.Unlock()
	if held, err = s.held(ctx); err != nil {
		return nil, nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	named := make(map[string]bool)
	for _, v := range s.vms {
		named[v.record().Lease.Handle] = true
	}
	for handle := range held {
		if !named[handle] {
			strays = append(strays, handle)
		}
	}
	return held, strays, nil
}

// settle brings one VM to rest, or takes it over where it runs. The caller holds the
// token, since before the helper was asked what it holds.
func (s *Set) settle(ctx context.Context, v *VM, held map[string]ops.Reservation) error {
	v.mu.Lock()
	adopted := v.machine != nil
	v.mu.Unlock()
	if adopted || !s.has(v) {
		return nil // somebody has seen to it since it could not be settled before
	}
	rec := v.record()
	r, ok := held[rec.Lease.Handle]
	if !ok && rec.Lease.Handle != "" {
		// The host was down: address and slot may be another VM's by now.
		err := s.moveDown(v, func(r *Record) error { r.Lease = ops.VMReserveReply{}; return nil })
		if err != nil {
			return err
		}
	}
	runs := ok && r.Running
	switch {
	case rec.State == api.Creating, rec.State == api.Deleting, !s.Records.Saved(rec.ID): // else somebody was told of it
		return s.remove(ctx, v)
	case rec.State == api.Running && runs:
		// One that has ended since the helper was asked is as good as gone before.
		if err := s.adopt(ctx, v); !hasEnded(err) {
			return err
		}
	case rec.State == api.Stopped && !runs:
		return s.rest(ctx, v)
	}
	reason := "bangerd ended while it was " + string(rec.State)
	switch {
	case rec.State == api.Running:
		reason = "it was gone when bangerd started"
	case rec.State == api.Stopped:
		reason = rec.Reason // the record was ahead of the world
		if err := s.moveDown(v, moveTo(api.Stopping, reason)); err != nil {
			return err
		}
	}
	if err := s.halt(ctx, v, nil, reason); err != nil {
		return err
	}
	return s.rest(ctx, v)
}

// adopt takes over a VM that runs.
func (s *Set) adopt(ctx context.Context, v *VM) error {
	m, pid, err := adoptMachine(ctx, s.Helper, v.record().Lease.Handle)
	if err != nil {
		return err
	}
	v.change(func() { v.machine, v.rec.PID = m, pid })
	s.tasks.Go(func() { s.watch(v, m) })
	if v.record().Spec.AutoRemove {
		s.awaitHolder(v)
	}
	return nil
}

// hasEnded reports whether a VM was not adopted because it does not run.
func hasEnded(err error) bool {
	return errors.Is(err, &ops.Error{Code: ops.Conflict}) || errors.Is(err, &ops.Error{Code: ops.NotFound})
}

// rest sees to a VM that is stopped and was to go when it stops.
func (s *Set) rest(ctx context.Context, v *VM) error {
	rec := v.record()
	switch {
	case !rec.Spec.AutoRemove:
		return nil
	case !rec.Spec.Unheld:
		s.awaitHolder(v)
		return nil
	case rec.StartedAt.IsZero():
		return nil // its stop is yet to come
	}
	return s.remove(ctx, v)
}

// held asks the helper for what it holds, by handle.
func (s *Set) held(ctx context.Context) (map[string]ops.Reservation, error) {
	_, files, err := ops.Reconcile.Call(ctx, s.Helper, ops.None{})
	if err != nil {
		return nil, err
	}
	defer files[0].Close()
	var list []ops.Reservation
	const limit = 1 << 20
	if err := json.NewDecoder(io.NewSectionReader(files[0], 0, limit)).Decode(&list); err != nil {
		return nil, fmt.Errorf("read reservations: %w", err)
	}
	held := make(map[string]ops.Reservation)
	for _, r := range list {
		held[r.Handle] = r
	}
	return held, nil
}

// Close lets go of all VMs, which go on, and waits for what still works on
// them. Nothing can be done with the set afterwards.
func (s *Set) Close() {
	s.shut()
	s.mu.Lock()
	vms := slices.Collect(maps.Values(s.vms))
	s.mu.Unlock()
	for _, v := range vms {
		v.busy <- struct{}{} // kept: nothing begins any more
		var m *machine
		v.change(func() { m, v.machine = v.machine, nil })
		if m != nil {
			m.close()
		}
	}
	s.tasks.Wait()
}
