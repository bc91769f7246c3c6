package vm

import (
	"context"
	"errors"
	"os"
	"time"

	"golang.org/x/sys/unix"

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
	v.held = true
	return func() { s.unhold(v) }, nil
}

func (s *Set) unhold(v *VM) {
	v.mu.Lock()
	v.holders--
	last := v.holders == 0 && v.rec.Spec.AutoRemove
	id := v.rec.ID
	v.mu.Unlock()
	if !last {
		return
	}
	if err := s.Delete(context.Background(), id, true); err != nil && !isNotFound(err) {
		s.Log.Error("delete a VM that nobody holds", "id", id, "error", err)
	}
}

// awaitHolder deletes v unless somebody holds it in time. Its client has seen
// the daemon go, and comes back if it is still there.
func (s *Set) awaitHolder(v *VM) {
	time.AfterFunc(claimTime, func() {
		v.mu.Lock()
		v.holders++ // as if it had one that goes away now
		v.mu.Unlock()
		s.unhold(v)
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

// Serial returns the serial log of a VM for reading, and a channel that is
// closed when nothing more will be written to it; nil if it is over already.
// The caller closes the file.
func (s *Set) Serial(name string) (*os.File, <-chan struct{}, error) {
	v, err := s.find(name)
	if err != nil {
		return nil, nil, err
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if m := v.machine; m != nil {
		f, err := reopen(m.serial)
		return f, m.exited, err
	}
	f, err := os.Open(s.logPath(&v.rec))
	if os.IsNotExist(err) {
		return nil, nil, &api.Error{Code: api.CodeNotFound, Message: "VM " + v.rec.Name + " has not run yet"}
	}
	return f, nil, err
}

// reopen duplicates the descriptor: the log's folder is root's.
func reopen(f *os.File) (*os.File, error) {
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), "serial log"), nil
}

func isNotFound(err error) bool {
	var e *api.Error
	return errors.As(err, &e) && e.Code == api.CodeNotFound
}
