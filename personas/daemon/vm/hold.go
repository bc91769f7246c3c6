package vm

import (
	"cmp"
	"context"
	"errors"
	"os"
	"time"

	"banger/personas/api"
	"banger/personas/guest/link"
)

// Hold notes that somebody wants the VM, until the returned function is called.
// A VM with AutoRemove is deleted when its last holder is gone.
func (s *Set) Hold(name string) (release func(), err error) {
	v, err := s.find(name)
	if err != nil {
		return nil, err
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.holders++
	v.claim = false
	return func() {
		v.mu.Lock()
		v.holders--
		v.mu.Unlock()
		s.letGo(v)
	}, nil
}

// letGo deletes v if nobody holds it and somebody should, as often as it takes.
func (s *Set) letGo(v *VM) {
	v.mu.Lock()
	goes, id := v.goesLocked() && !v.rec.Spec.Unheld, v.rec.ID
	v.mu.Unlock()
	if !goes {
		return
	}
	err := s.Delete(s.open, id, true)
	var known *api.Error
	if err == nil || errors.As(err, &known) && known.Code == api.CodeNotFound || s.open.Err() != nil {
		return
	}
	pause := cmp.Or(s.RetryTime, 10*time.Second)
	s.Log.Error("delete a VM that nobody holds, trying again", "id", id, "pause", pause, "error", err)
	s.tasks.Go(func() {
		select {
		case <-time.After(pause):
			s.letGo(v)
		case <-s.open.Done():
		}
	})
}

// goesLocked reports whether the end of v is the end of all of it.
func (v *VM) goesLocked() bool {
	return v.rec.Spec.AutoRemove && v.holders == 0 && !v.claim
}

// awaitHolder gives those who want v some time to say so: its client was told of
// it just now, or has seen the daemon go and comes back if it is still there.
func (s *Set) awaitHolder(v *VM) {
	if v.record().Spec.Unheld {
		return
	}
	v.mu.Lock()
	v.claim = v.holders == 0
	v.mu.Unlock()
	s.tasks.Go(func() {
		timer := time.NewTimer(cmp.Or(s.ClaimTime, time.Minute))
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-s.open.Done():
			return
		}
		v.mu.Lock()
		v.claim = false
		v.mu.Unlock()
		s.letGo(v)
	})
}

// Agent returns a connection to the agent in the guest, as a file to be passed
// on. The caller closes it.
func (s *Set) Agent(ctx context.Context, name string) (*os.File, error) {
	v, err := s.find(name)
	if err != nil {
		return nil, err
	}
	m, err := v.running()
	if err != nil && v.record().State == api.Running { // the helper may have been away when the daemon began
		if err := s.Reconcile(ctx); err != nil {
			return nil, err
		}
		m, err = v.running()
	}
	if err != nil {
		return nil, err
	}
	conn, err := m.dialAgent(ctx, link.AgentPort)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	return conn.File()
}
