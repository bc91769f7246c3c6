package jail

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// stage is a process that waits for the plan of a jail, to become its VMM. It ends
// when nobody has the other end of its socket any more.
type stage struct {
	pid   int
	pidfd int
	talk  *os.File
}

// startStage forks a stage.
func startStage() (*stage, error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("make plan socket: %v", err)
	}
	theirs := os.NewFile(uintptr(pair[1]), "plan")
	defer theirs.Close()
	if err := unix.SetNonblock(pair[0], true); err != nil { // lets a deadline end a read
		return nil, errors.Join(fmt.Errorf("make plan socket: %v", err), unix.Close(pair[0]))
	}
	st := &stage{pidfd: -1, talk: os.NewFile(uintptr(pair[0]), "plan")}
	null, err := os.OpenFile("/dev/null", os.O_RDWR, 0)
	if err != nil {
		st.talk.Close()
		return nil, fmt.Errorf("open null device: %v", err)
	}
	defer null.Close()
	proc, err := os.StartProcess("/proc/self/exe", []string{StageName}, &os.ProcAttr{
		Dir:   "/",
		Env:   []string{}, // nil would be our own
		Files: []*os.File{null, null, null, theirs},
		Sys: &unix.SysProcAttr{
			Cloneflags: unix.CLONE_NEWPID | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS,
			Setsid:     true,
			PidFD:      &st.pidfd,
		},
	})
	if err != nil {
		st.talk.Close()
		return nil, fmt.Errorf("start jail stage: %w", mountError("fork", cause(err)))
	}
	st.pid = proc.Pid
	_ = proc.Release() // waited for by pidfd
	return st, nil
}

// adopt writes the record of what the stage is to become, and returns that. It takes
// ownership of the process, and the stage is gone after an error that is not ErrRunning.
func (st *stage) adopt(uid int, d *dir) (*Process, error) {
	p, err := newProcess(st.pidfd, Record{PID: st.pid, UID: uid, Dir: d.path()}, d, true)
	if err != nil {
		return nil, err
	}
	if p.record.StartTicks, err = startTicks(st.pid); err == nil {
		err = d.writeRecord(p.record)
	}
	if err != nil {
		return nil, errors.Join(err, p.discard())
	}
	return p, nil
}

// tell sends the plan and waits until the stage has become the VMM.
func (st *stage) tell(ctx context.Context, plan *plan, files []*os.File) error {
	defer interrupt(ctx, st.talk)()
	if err := plan.send(st.talk, files); err != nil {
		return err
	}
	told := make([]byte, maxPlan)
	n, err := st.talk.Read(told)
	switch {
	case ctx.Err() != nil:
		return waitError(ctx)
	case err == io.EOF:
		return nil
	case err != nil:
		return fmt.Errorf("read from jail stage: %v", err)
	}
	return errors.New(string(told[:n]))
}

// end ends a stage that nobody wants, and waits for that.
func (st *stage) end() {
	st.talk.Close()
	_ = unix.PidfdSendSignal(st.pidfd, unix.SIGKILL, nil, 0)
	for {
		if _, err := unix.Wait4(st.pid, nil, 0, nil); err != unix.EINTR {
			break
		}
	}
	unix.Close(st.pidfd)
}

// Starter starts VMMs, and can have a stage at the ready: half of what a start takes
// is the birth of a stage, which can go on while the VM is still being made. The zero
// value is ready to use; all methods are safe for concurrent use.
type Starter struct {
	// mu guards the fields that follow.
	mu    sync.Mutex
	spare *stage // nil if there is none
	timer *time.Timer
}

// spareTime is how long a stage waits to be used.
const spareTime = 10 * time.Second

// Prepare makes a stage for the next Start, unless there is one. It does not wait for
// more than a fork. Where that fails, Start meets and tells the same error.
func (s *Starter) Prepare() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.spare != nil {
		return
	}
	st, err := startStage()
	if err != nil {
		return
	}
	s.spare = st
	s.timer = time.AfterFunc(spareTime, func() {
		if s.take(st) == st {
			st.end()
		}
	})
}

// Relax ends the stage that Prepare has made, if it was not used, and waits for that.
func (s *Starter) Relax() {
	if st := s.take(nil); st != nil {
		st.end()
	}
}

// Start is the function Start, in the stage that is ready.
func (s *Starter) Start(ctx context.Context, spec *Spec) (*Process, error) {
	return startIn(ctx, spec, func() (*stage, error) {
		st := s.take(nil)
		switch {
		case st == nil:
			return startStage()
		case readable(st.pidfd): // somebody killed it
			st.end()
			return startStage()
		}
		return st, nil
	})
}

// take returns the spare, if there is one and it is only or that is nil. The caller
// uses or ends it.
func (s *Starter) take(only *stage) *stage {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := s.spare
	if st == nil || only != nil && st != only {
		return nil
	}
	s.spare = nil
	s.timer.Stop()
	return st
}
