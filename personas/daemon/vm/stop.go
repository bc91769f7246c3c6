package vm

import (
	"context"
	"errors"
	"fmt"
	"time"

	"banger/personas/api"
	"banger/personas/guest/link"
)

// defaultGrace is how long a guest may take to shut down.
const defaultGrace = 30 * time.Second

// Stop shuts the guest down cleanly, and kills its VMM after grace; zero means
// a default. A VM that is stopped already stays so, and one with AutoRemove that
// nobody holds is deleted.
func (s *Set) Stop(ctx context.Context, name string, grace time.Duration, progress func(api.Event)) (api.VM, error) {
	return s.operate(ctx, name, func(ctx context.Context, v *VM) error {
		return errors.Join(s.stopLocked(ctx, v, grace, progress), s.autoRemove(ctx, v))
	})
}

// Kill ends a VM at once, and whatever is under way with it.
func (s *Set) Kill(ctx context.Context, name string) (api.VM, error) {
	v, err := s.seize(ctx, name, interruption("the VM was killed"))
	if err != nil {
		return api.VM{}, err
	}
	defer v.release()
	if err := errors.Join(s.killLocked(ctx, v, "killed"), s.autoRemove(ctx, v)); err != nil {
		return api.VM{}, err
	}
	return s.view(v), nil
}

// autoRemove deletes a stopped VM that was to go when it stops.
func (s *Set) autoRemove(ctx context.Context, v *VM) error {
	v.mu.Lock()
	goes := v.rec.State == api.Stopped && v.goesLocked()
	v.mu.Unlock()
	if !goes {
		return nil
	}
	return s.remove(context.WithoutCancel(ctx), v)
}

// Restart stops a VM and starts it.
func (s *Set) Restart(ctx context.Context, name string, grace time.Duration, progress func(api.Event)) (api.VM, error) {
	return s.operate(ctx, name, func(ctx context.Context, v *VM) error {
		if err := s.stopLocked(ctx, v, grace, progress); err != nil {
			return err
		}
		if cause := context.Cause(ctx); cause != nil {
			return cause
		}
		return s.startLocked(ctx, v, progress)
	})
}

// operate does act with the token of the VM, until the VM is seized.
func (s *Set) operate(ctx context.Context, name string, act func(context.Context, *VM) error) (api.VM, error) {
	v, err := s.take(ctx, name)
	if err != nil {
		return api.VM{}, err
	}
	defer v.release()
	ctx, done := v.work(ctx)
	defer done()
	if err := act(ctx, v); err != nil {
		return api.VM{}, err
	}
	return s.view(v), nil
}

func (s *Set) stopLocked(ctx context.Context, v *VM, grace time.Duration, progress func(api.Event)) error {
	if err := s.reach(ctx, v); err != nil {
		return err
	}
	m, err := v.running()
	if err != nil {
		return s.killLocked(ctx, v, "stopped") // there is no guest that could be asked
	}
	if grace == 0 {
		grace = defaultGrace
	}
	end := api.Begin(progress, "shutdown")
	if err := s.moveDown(v, moveTo(api.Stopping, "")); err != nil {
		return err
	}
	reason := "stopped"
	if err := shutdown(ctx, m, grace); err != nil {
		reason = fmt.Sprintf("killed: %v", err)
		progress(api.Event{Notice: "the guest did not shut down: " + err.Error()})
	}
	// The rest happens also when the client has gone: half stopped helps nobody.
	if err := s.halt(context.WithoutCancel(ctx), v, m, reason); err != nil {
		return err
	}
	end()
	return nil
}

// reach takes over a VM that runs and could not be taken over when the daemon began. It
// is no error if the VM has ended.
func (s *Set) reach(ctx context.Context, v *VM) error {
	rec := v.record()
	if _, err := v.running(); err == nil || rec.State != api.Running {
		return nil
	}
	err := s.adopt(ctx, v)
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	if err == nil || hasEnded(err) {
		return nil
	}
	return &api.Error{Code: api.CodeConflict, Message: fmt.Sprintf("reach the guest of VM %s: %v", rec.Name, err),
		HintText: "what it has not written is lost if you end it nevertheless: banger vm kill " + rec.Name}
}

func (s *Set) killLocked(ctx context.Context, v *VM, reason string) error {
	if v.record().State == api.Stopped {
		return nil
	}
	v.mu.Lock()
	m := v.machine
	v.mu.Unlock()
	if err := s.moveDown(v, moveTo(api.Stopping, "")); err != nil {
		return err
	}
	return s.halt(context.WithoutCancel(ctx), v, m, reason)
}

// shutdown asks the guest's agent, which syncs first of all, and waits until
// the VMM is gone.
func shutdown(ctx context.Context, m *machine, grace time.Duration) error {
	ctx, cancel := context.WithTimeoutCause(ctx, grace, fmt.Errorf("it took longer than %v", grace))
	defer cancel()
	conn, err := m.dialAgent(ctx, link.AgentPort)
	if err == nil {
		err = link.Shutdown(ctx, conn, link.ShutdownRequest{GraceSeconds: max(1, int(grace.Seconds())-2)})
		conn.Close()
	}
	if err != nil {
		select {
		case <-m.exited: // it went down while it answered
			return nil
		default:
			return err
		}
	}
	select {
	case <-m.exited:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// watch waits for the end of a VM that nobody has asked for: its guest has shut
// down or crashed, or its VMM was killed.
func (s *Set) watch(v *VM, m *machine) {
	s.watchStore(v, m)
	if !m.hasExited() || v.acquire(s.open) != nil {
		return // let go of
	}
	defer v.release()
	v.mu.Lock()
	current := v.machine == m
	v.mu.Unlock()
	if !current {
		return // whoever stopped it has seen to it
	}
	rec := v.record()
	s.Log.Info("VM ended by itself", "vm", rec.Name, "id", rec.ID)
	ctx := context.WithoutCancel(s.open)
	err := s.halt(ctx, v, m, "the guest shut down, or its VMM was killed")
	if err = errors.Join(err, s.autoRemove(ctx, v)); err != nil {
		s.Log.Error("clear away a VM that ended", "vm", rec.Name, "error", err)
	}
}
