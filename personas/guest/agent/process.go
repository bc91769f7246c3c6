package agent

import (
	"errors"
	"os"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// A process is a command that was started. Its pid is also that of its session
// and of its process group.
type process struct {
	pid  int
	proc *os.Process

	// mu is held over kill, so that no signal goes to a pid that is free again.
	mu    sync.Mutex
	ended bool
}

func newProcess(proc *os.Process) *process { return &process{pid: proc.Pid, proc: proc} }

// wait waits for the end of the command and returns its exit code: 128+n when
// signal n has killed it. Only the first call returns the code.
func (p *process) wait() int {
	// The zombie keeps its pid until it is reaped: first let nobody signal it
	// any more, then reap.
	for {
		err := unix.Waitid(unix.P_PID, p.pid, nil, unix.WEXITED|unix.WNOWAIT, nil)
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	p.mu.Lock()
	p.ended = true
	p.mu.Unlock()
	state, err := p.proc.Wait()
	if err != nil {
		return codeCannotRun // someone else has reaped it: a broken guest
	}
	status := state.Sys().(syscall.WaitStatus)
	if status.Signaled() {
		return 128 + int(status.Signal())
	}
	return status.ExitStatus()
}

// signal sends sig to the command's process group, as a terminal would. Nothing
// happens once the command has ended.
func (p *process) signal(sig syscall.Signal) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.ended {
		// ESRCH: the whole group is dead already. EINVAL: no such signal.
		_ = unix.Kill(-p.pid, sig)
	}
}
