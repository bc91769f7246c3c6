package vm

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"banger/ops"
	"banger/personas/api"
)

// claimTime is how long a VM with AutoRemove that runs when the daemon starts
// may be without a holder.
const claimTime = time.Minute

// Load reads the records and brings world and records together: what runs is
// adopted, what was half made is removed, what was half removed is finished.
// Records that cannot be read stay untouched and are told.
func (s *Set) Load(ctx context.Context) error {
	recs, err := s.Records.Load()
	s.mu.Lock()
	s.vms, s.names, s.closed = make(map[string]*VM), make(map[string]*VM), make(chan struct{})
	for _, rec := range recs {
		v := newVM(rec)
		s.vms[rec.ID], s.names[rec.Name] = v, v
	}
	s.mu.Unlock()
	return err
}

// Reconcile does Load's second half, which needs the helper.
func (s *Set) Reconcile(ctx context.Context) error {
	held, err := s.held(ctx)
	if err != nil {
		return err
	}
	s.mu.Lock()
	var vms []*VM
	for _, v := range s.vms {
		vms = append(vms, v)
	}
	s.mu.Unlock()
	var errs []error
	for _, v := range vms {
		rec := v.record()
		r, ok := held[rec.Lease.Handle]
		delete(held, rec.Lease.Handle)
		if err := s.reconcile(ctx, v, ok && r.Running); err != nil {
			errs = append(errs, fmt.Errorf("reconcile VM %s: %w", rec.Name, err))
		}
	}
	for handle := range held { // reserved, and then the daemon died
		_, _, err := ops.VMRelease.Call(ctx, s.Helper, ops.HandleArgs{Handle: handle})
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

func (s *Set) reconcile(ctx context.Context, v *VM, runs bool) error {
	if err := v.acquire(ctx); err != nil {
		return err
	}
	defer v.release()
	rec := v.record()
	switch rec.State {
	case api.Creating, api.Deleting:
		return s.remove(ctx, v)
	case api.Running:
		if !runs {
			return s.ended(ctx, v, "it was gone when bangerd started")
		}
		m, pid, err := adoptMachine(ctx, s.Helper, rec.Lease.Handle)
		if err != nil {
			return err
		}
		v.mu.Lock()
		v.machine, v.rec.PID = m, pid
		v.mu.Unlock()
		s.tasks.Go(func() { s.watch(v, m) })
		if rec.Spec.AutoRemove {
			s.awaitHolder(v)
		}
		return nil
	case api.Starting, api.Stopping:
		if runs { // nobody waits for it any more, and its guest may be half way
			return s.ended(ctx, v, "bangerd ended while it was "+string(rec.State))
		}
		return s.ended(ctx, v, "")
	}
	return nil
}

// ended records the end of a VM that the daemon did not see.
func (s *Set) ended(ctx context.Context, v *VM, reason string) error {
	if v.record().Spec.AutoRemove {
		return s.remove(ctx, v)
	}
	return s.halt(ctx, v, nil, reason)
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
// them.
func (s *Set) Close() {
	close(s.closed)
	s.mu.Lock()
	var vms []*VM
	for _, v := range s.vms {
		vms = append(vms, v)
	}
	s.mu.Unlock()
	for _, v := range vms {
		v.busy <- struct{}{} // kept: nothing begins any more
		v.mu.Lock()
		if v.machine != nil {
			v.machine.close()
		}
		v.machine = nil
		v.mu.Unlock()
	}
	s.tasks.Wait()
}
