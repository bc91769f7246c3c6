package vm

import (
	"context"
	"fmt"

	"banger/personas/api"
)

// take finds a VM and waits for its token. The caller gives it back with
// release.
func (s *Set) take(ctx context.Context, name string) (*VM, error) {
	if err := s.Reconcile(ctx); err != nil {
		return nil, err
	}
	v, err := s.find(name)
	if err != nil {
		return nil, err
	}
	if err := v.acquire(ctx); err != nil {
		return nil, err
	}
	if !s.has(v) { // somebody else has deleted it meanwhile
		v.release()
		return nil, notFound(name)
	}
	return v, nil
}

// seize is take for what does not wait its turn: the operation that is under
// way, and those that come before it, end with cause.
func (s *Set) seize(ctx context.Context, name string, cause error) (*VM, error) {
	v, err := s.find(name)
	if err != nil {
		return nil, err
	}
	v.mu.Lock()
	v.urgent, v.cause = v.urgent+1, cause
	if v.cancel != nil {
		v.cancel(cause)
	}
	v.mu.Unlock()
	defer func() {
		v.mu.Lock()
		v.urgent--
		v.mu.Unlock()
	}()
	return s.take(ctx, v.record().ID)
}

// interruption is why an operation ended that somebody else put an end to.
func interruption(what string) error {
	return &api.Error{Code: api.CodeConflict, Message: what}
}

// acquire waits for the VM's token. The caller gives it back with release.
func (v *VM) acquire(ctx context.Context) error {
	select {
	case v.busy <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (v *VM) release() { <-v.busy }

// work returns a context for the length of an operation of whoever holds the
// token. It ends early, with the reason as its cause, when the VM is seized.
func (v *VM) work(ctx context.Context) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	v.mu.Lock()
	defer v.mu.Unlock()
	v.cancel = cancel
	if v.urgent > 0 {
		cancel(v.cause)
	}
	return ctx, func() {
		v.mu.Lock()
		v.cancel = nil
		v.mu.Unlock()
		cancel(nil)
	}
}

func notFound(name string) error {
	return &api.Error{Code: api.CodeNotFound, Message: fmt.Sprintf("no VM is named %q", name),
		HintText: "see which there are: banger vm list"}
}
