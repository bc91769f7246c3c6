package jail

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// Errors that a caller can act on.
var (
	// ErrWaitTimeout is a wait that ended by the deadline of its context.
	ErrWaitTimeout = errors.New("timed out")
	// ErrExited is a VMM that ended while something was wanted of it.
	ErrExited = errors.New("the VMM has exited")
	// ErrRunning is a VMM that runs although it must not.
	ErrRunning = errors.New("the VMM is running")
)

// Exit tells how a VMM ended.
type Exit struct {
	// Known is false if the kernel could not tell: for an adopted process that takes
	// Linux 6.15.
	Known bool
	// Status is the wait status, valid if Known.
	Status unix.WaitStatus
}

// String tells it in words.
func (e Exit) String() string {
	switch {
	case !e.Known:
		return "exit status unknown"
	case e.Status.Signaled():
		return "killed by " + unix.SignalName(e.Status.Signal())
	}
	return fmt.Sprintf("exit status %d", e.Status.ExitStatus())
}

// Process is a VMM in its jail. All methods are safe for concurrent use. It must be
// ended with Release, or let go of with Close.
type Process struct {
	record Record
	pidfd  *os.File
	dir    *dir
	child  bool // ours to reap

	exited chan struct{} // closed when the VMM has ended; exit is set then
	ended  chan struct{} // closed when the goroutine that waits has returned
	exit   Exit

	closeOnce sync.Once
	closeErr  error
	released  atomic.Bool
}

// newProcess takes ownership of pidfd and d, and begins to wait for the exit.
func newProcess(pidfd int, r Record, d *dir, child bool) (*Process, error) {
	// A descriptor that does not block is waited for by the runtime's poller, without a thread.
	if err := unix.SetNonblock(pidfd, true); err != nil {
		return nil, errors.Join(fmt.Errorf("watch process %d: %v", r.PID, err), unix.Close(pidfd))
	}
	p := &Process{
		record: r, pidfd: os.NewFile(uintptr(pidfd), fmt.Sprintf("pidfd of %d", r.PID)), dir: d, child: child,
		exited: make(chan struct{}), ended: make(chan struct{}),
	}
	go p.watch()
	return p, nil
}

// watch waits for the exit, reaps a child, and learns the status where it can be known.
func (p *Process) watch() {
	defer close(p.ended)
	rc, err := p.pidfd.SyscallConn()
	if err != nil {
		return
	}
	var exit Exit
	err = rc.Read(func(fd uintptr) bool {
		if !readable(int(fd)) {
			return false
		}
		exit = p.collect(int(fd))
		return true
	})
	if err != nil {
		return // closed
	}
	p.exit = exit
	close(p.exited)
}

// collect returns the status of the process, which has ended.
func (p *Process) collect(pidfd int) Exit {
	if p.child {
		var e Exit
		for {
			// A child keeps its pid until this call.
			pid, err := unix.Wait4(p.record.PID, &e.Status, 0, nil)
			if err == unix.EINTR {
				continue
			}
			e.Known = err == nil && pid == p.record.PID
			return e
		}
	}
	// The kernel tells once the parent has reaped it, which hangs the descriptor up. A
	// parent that does so at all does it at once.
	const reapMillis = 50
	_, _ = unix.Poll([]unix.PollFd{{Fd: int32(pidfd)}}, reapMillis)
	info := unix.PidfdInfo{Mask: unix.PIDFD_INFO_EXIT}
	err := unix.IoctlPidfdInfo(pidfd, &info)
	if err != nil || info.Mask&unix.PIDFD_INFO_EXIT == 0 {
		return Exit{}
	}
	return Exit{Known: true, Status: unix.WaitStatus(info.Exit_code)}
}

// readable reports whether a descriptor is ready, without waiting.
func readable(fd int) bool {
	n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
	return err == nil && n == 1
}

// Record returns what identifies the process, now and after a restart.
func (p *Process) Record() Record { return p.record }

// PID returns the process id. Use it to tell, not to act.
func (p *Process) PID() int { return p.record.PID }

// Pidfd returns the descriptor of the process. It stays the property of p.
func (p *Process) Pidfd() *os.File { return p.pidfd }

// RunDir returns an O_PATH descriptor of RunPath in the jail. Whoever has it reaches the
// sockets in there by /proc/self/fd/N/NAME, as far as their own modes admit him. It
// stays the property of p. The VMM can put anything there: use O_NOFOLLOW.
func (p *Process) RunDir() *os.File { return p.dir.run }

// Seal takes the run directory from the VMM, whose sockets go on: from now on it can make
// nothing in there, and so take no room from the other jails. Again it changes nothing.
func (p *Process) Seal() error {
	if err := own(p.dir.run, 0o711); err != nil {
		return fmt.Errorf("seal run directory: %w", err)
	}
	return nil
}

// Exited is closed when the VMM has ended.
func (p *Process) Exited() <-chan struct{} { return p.exited }

// Wait waits for the VMM to end. At the deadline of ctx it returns ErrWaitTimeout,
// and the error of ctx at once when that is cancelled.
func (p *Process) Wait(ctx context.Context) (Exit, error) {
	select {
	case <-p.exited:
		return p.exit, nil
	default:
	}
	select {
	case <-p.exited:
		return p.exit, nil
	case <-p.ended:
		select { // both are closed if it has exited
		case <-p.exited:
			return p.exit, nil
		default:
			return Exit{}, fmt.Errorf("wait for VMM: %w", os.ErrClosed)
		}
	case <-ctx.Done():
		return Exit{}, fmt.Errorf("wait for VMM: %w", waitError(ctx))
	}
}

// waitError tells a deadline from a cancellation.
func waitError(ctx context.Context) error {
	cause := context.Cause(ctx)
	if errors.Is(cause, context.DeadlineExceeded) {
		return fmt.Errorf("%w (%w)", ErrWaitTimeout, cause)
	}
	return cause
}

// Kill ends the VMM at once, and with it all processes that it has started: it is
// the first of its pid namespace. It returns nil if it had ended before.
func (p *Process) Kill() error { return p.signal(unix.SIGKILL) }

// signal sends sig. As the first process of a pid namespace the VMM gets only
// SIGKILL and those signals that it has a handler for.
func (p *Process) signal(sig unix.Signal) error {
	rc, err := p.pidfd.SyscallConn()
	if err == nil {
		cerr := rc.Control(func(fd uintptr) { err = unix.PidfdSendSignal(int(fd), sig, nil, 0) })
		err = errors.Join(err, cerr)
	}
	if err == nil || errors.Is(err, unix.ESRCH) {
		return nil
	}
	return fmt.Errorf("send %s to VMM: %w", unix.SignalName(sig), err)
}

// Stop asks the guest to shut down, by Ctrl-Alt-Del, and waits until ctx is done,
// then kills the VMM. A VMM that takes no Ctrl-Alt-Del gets SIGTERM instead. Stop
// returns nil when the VMM has ended, in whatever way, which Wait tells.
func (p *Process) Stop(ctx context.Context) error {
	if err := p.SendCtrlAltDel(ctx); err != nil {
		if err := p.signal(unix.SIGTERM); err != nil {
			return err
		}
	}
	if _, err := p.Wait(ctx); err == nil {
		return nil
	}
	if err := p.Kill(); err != nil {
		return err
	}
	return p.gone()
}

// gone waits for the end of a process that was killed. One that hangs in the kernel
// is reported, and none of its things may be taken away then.
func (p *Process) gone() error {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	_, err := p.Wait(ctx)
	return err
}

// discard ends a process that is of no use, and leaves the directory alone. The error is
// ErrRunning if it does not go.
func (p *Process) discard() error {
	err := p.Kill()
	if gerr := p.gone(); gerr != nil {
		err = errors.Join(err, fmt.Errorf("%w: %w", ErrRunning, gerr))
	}
	return errors.Join(err, p.closeFiles())
}

// Release removes the jail of a VMM that has ended and closes all descriptors. It
// returns ErrRunning, and does nothing, while the VMM runs. It can be repeated after an
// error; after a success it does nothing.
func (p *Process) Release() error {
	if p.released.Load() {
		return nil
	}
	select {
	case <-p.exited:
	default:
		return fmt.Errorf("release jail of VMM: %w", ErrRunning)
	}
	if err := p.dir.remove(); err != nil {
		return err
	}
	p.released.Store(true)
	return p.Close()
}

// Close lets go of the VMM, which runs on and can be adopted again.
func (p *Process) Close() error {
	return errors.Join(p.closeFiles(), p.dir.close())
}

// closeFiles ends the watch, and leaves the directory alone.
func (p *Process) closeFiles() error {
	p.closeOnce.Do(func() {
		p.closeErr = p.pidfd.Close()
		<-p.ended
	})
	return p.closeErr
}

// interrupt makes pending calls on f fail when ctx is done. The returned function
// ends that.
func interrupt(ctx context.Context, f *os.File) func() {
	stop := context.AfterFunc(ctx, func() { _ = f.SetDeadline(time.Unix(1, 0)) })
	return func() { stop() }
}
