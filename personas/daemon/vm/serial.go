package vm

import (
	"context"
	"os"

	"golang.org/x/sys/unix"

	"banger/personas/api"
)

// Serial returns the serial log of a VM for reading, and a channel that is
// closed when nothing more will be written to it; nil if it is over already.
// Of a VM that is about to start there is none yet: who follows waits for it
// until ctx is done, who does not gets an empty one. The caller closes the file.
func (s *Set) Serial(ctx context.Context, name string, follow bool) (*os.File, <-chan struct{}, error) {
	v, err := s.find(name)
	if err != nil {
		return nil, nil, err
	}
	for {
		f, over, changed, err := s.serial(v)
		if f != nil || err != nil {
			return f, over, err
		}
		if !follow {
			f, err = os.Open(os.DevNull)
			return f, nil, err
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, nil, context.Cause(ctx)
		}
	}
}

// serial is Serial of this moment. It returns no file where one is about to come,
// but what is closed when things have changed.
func (s *Set) serial(v *VM) (f *os.File, over, changed <-chan struct{}, err error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if m := v.machine; m != nil {
		f, err := reopen(m.serial)
		return f, m.over, nil, err
	}
	switch v.rec.State {
	case api.Creating, api.Starting:
		return nil, nil, v.changed, nil
	case api.Deleting:
		return nil, nil, nil, notFound(v.rec.Name)
	}
	f, err = os.Open(s.logPath(&v.rec))
	if os.IsNotExist(err) {
		err = &api.Error{Code: api.CodeNotFound, Message: "VM " + v.rec.Name + " has not run yet"}
	}
	return f, nil, nil, err
}

// reopen duplicates the descriptor: the log's folder is root's.
func reopen(f *os.File) (*os.File, error) {
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), "serial log"), nil
}
