package server

import (
	"context"

	"banger/fc"
)

// A machine's states, and the requests that lead from one to the other:
//
//	                InstanceStart             PATCH /vm Paused
//	 Not started ------------------> Running ------------------> Paused
//	  ^       |                       ^   |  <------------------  |   |
//	  +-------+                       +---+    PATCH /vm Resumed  +---+
//	configuration                    updates                     updates
//
// Configuration is refused after the start, updates are refused before it. The machine
// never goes back; at its end the VMM's process ends.

// do does request in the state that the machine is in.
func (s *Server) do(ctx context.Context, request fc.Request) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.state == fc.StateNotStarted {
		return s.doBeforeBootLocked(ctx, request)
	}
	return s.doAfterBootLocked(ctx, request)
}

func (s *Server) doBeforeBootLocked(ctx context.Context, request fc.Request) error {
	switch r := request.(type) {
	case fc.Action:
		if r.Type == fc.InstanceStart {
			return s.startLocked(ctx, r)
		}
		return errNotBeforeBoot
	case fc.SnapshotLoad:
		if s.touched {
			return errLoadTooLate
		}
		return failed(r, s.config.Machine.Prepare(ctx, r))
	case fc.VM, fc.SnapshotCreate, fc.DriveUpdate, fc.NetworkUpdate, fc.BalloonUpdate, fc.BalloonStatsUpdate:
		return errNotBeforeBoot
	case fc.MachineUpdate:
		request = merge(*s.vm.MachineConfig, r)
	case fc.MachineConfig:
		request = withDefaults(r)
	case fc.Logger, fc.Metrics, fc.Serial:
		// They configure the VMM, not the machine.
	default:
		s.touched = true
	}
	next, err := configure(s.vm, request)
	if err != nil {
		return failed(request, err)
	}
	if err := s.config.Machine.Prepare(ctx, request); err != nil {
		return failed(request, err)
	}
	s.vm = next
	return nil
}

func (s *Server) startLocked(ctx context.Context, r fc.Action) error {
	if s.vm.BootSource.KernelPath == "" {
		return errNoKernel
	}
	if err := s.config.Machine.Start(ctx, s.vm); err != nil {
		return failed(r, err)
	}
	s.state = fc.StateRunning
	return nil
}

func (s *Server) doAfterBootLocked(ctx context.Context, request fc.Request) error {
	switch r := request.(type) {
	case fc.Action:
		if r.Type == fc.InstanceStart {
			return errNotAfterBoot
		}
	case fc.VM, fc.SnapshotCreate, fc.DriveUpdate, fc.NetworkUpdate, fc.BalloonUpdate, fc.BalloonStatsUpdate:
	default:
		return errNotAfterBoot
	}
	next, err := update(s.vm, request)
	if err != nil {
		return failed(request, err)
	}
	if err := s.config.Machine.Change(ctx, request); err != nil {
		return failed(request, err)
	}
	s.vm = next
	if r, ok := request.(fc.VM); ok {
		s.state = fc.StateRunning
		if r.State == fc.Paused {
			s.state = fc.StatePaused
		}
	}
	return nil
}
