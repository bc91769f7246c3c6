package vmm

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// process is a running QEMU.
type process struct {
	cmd *exec.Cmd
	// said is the end of what it wrote to standard error.
	said *tail
	// done is closed when it has ended and err is set.
	done chan struct{}
	err  error
}

// spawn starts path with the launch's arguments and descriptors. The process is killed
// with this one, however this one ends.
func spawn(path string, l *launch, log *logger) (*process, error) {
	p := &process{cmd: exec.Command(path, l.args...), said: &tail{log: log}, done: make(chan struct{})}
	p.cmd.Env = []string{}
	p.cmd.Dir = "/"
	p.cmd.Stdin, p.cmd.Stdout, p.cmd.Stderr = os.Stdin, os.Stdout, p.said
	p.cmd.ExtraFiles = l.files
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	started := make(chan error, 1)
	go func() {
		// The kernel means the thread that forked, not the process: it must live as long.
		runtime.LockOSThread()
		err := p.cmd.Start()
		started <- err
		if err == nil {
			p.err = p.cmd.Wait()
			close(p.done)
		}
	}()
	if err := <-started; err != nil {
		return nil, fmt.Errorf("start qemu: %w", err)
	}
	return p, nil
}

// kill ends the process and waits until it is gone.
func (p *process) kill() {
	// The only error is that it has ended.
	_ = p.cmd.Process.Kill()
	<-p.done
}

// failure says how the process, which has ended, ended.
func (p *process) failure() error {
	if said := p.said.String(); said != "" {
		return fmt.Errorf("qemu: %s", said)
	}
	if p.err != nil {
		return fmt.Errorf("qemu ended: %w", p.err)
	}
	return fmt.Errorf("qemu ended unexpectedly")
}

// tail keeps the end of what is written to it, and logs each line.
type tail struct {
	log *logger

	// mu guards the field that follows.
	mu  sync.Mutex
	end []byte
}

// maxTail is how much of QEMU's standard error is kept in bytes.
const maxTail = 1 << 10

// Write implements io.Writer.
func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.end = append(t.end, p[max(0, len(p)-maxTail):]...)
	t.end = t.end[max(0, len(t.end)-maxTail):]
	t.log.Warn("qemu says", "text", printable(p))
	return len(p), nil
}

// String is what was kept.
func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return printable(t.end)
}

// socketPair is a connection whose other end is for QEMU.
func socketPair() (ours, theirs *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("make socket pair: %w", err)
	}
	return os.NewFile(uintptr(fds[0]), "ours"), os.NewFile(uintptr(fds[1]), "theirs"), nil
}
