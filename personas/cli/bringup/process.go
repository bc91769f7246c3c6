package bringup

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"
)

// launch is one daemon that is to be started.
type launch struct {
	name   string // argv[0], which picks the role
	args   []string
	home   string
	as     identity
	socket *os.File // listening; stays the caller's
	log    string
}

// process is a daemon that was started.
type process struct {
	name string
	log  string
	from int64 // where its lines in the log begin
	done chan struct{}
	err  error // of the end; read it after done
}

// safePath is the PATH of the daemons. That of the caller is the caller's.
const safePath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// start starts a daemon in a session of its own. It outlives this process.
func start(exe string, l launch) (*process, error) {
	log, err := openLog(l.log, l.as)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	p := &process{name: l.name, log: l.log, done: make(chan struct{})}
	if info, err := log.Stat(); err == nil {
		p.from = info.Size()
	}
	cmd := exec.Cmd{
		Path:        exe,
		Args:        append([]string{l.name}, l.args...),
		Env:         []string{"PATH=" + safePath, "HOME=" + l.home, "LISTEN_FDS=1"},
		Dir:         "/",
		Stdout:      log,
		Stderr:      log,
		ExtraFiles:  []*os.File{l.socket},
		SysProcAttr: &syscall.SysProcAttr{Setsid: true},
	}
	if l.as != root {
		// Without groups: setgroups is called with none.
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: uint32(l.as.uid), Gid: uint32(l.as.gid)}
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", l.name, err)
	}
	go func() {
		p.err = cmd.Wait()
		close(p.done)
	}()
	return p, nil
}

// failed says how the process has failed, with the last lines of its log. It waits
// for the end, and returns an empty string if it does not come, or is a good one.
func (p *process) failed(wait time.Duration) string {
	select {
	case <-p.done:
	case <-time.After(wait):
		return ""
	}
	if p.err == nil {
		return ""
	}
	how := "it ended: " + p.err.Error()
	if tail := p.tail(); tail != "" {
		return how + "\n" + tail
	}
	return how + "; nothing is in " + p.log
}

// tailBytes bounds what is shown of a log.
const tailBytes = 2 << 10

// tail returns the last lines that the process has logged.
func (p *process) tail() string {
	f, err := os.OpenFile(p.log, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if err != nil {
		return ""
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil || !info.Mode().IsRegular() {
		return ""
	}
	from := max(p.from, info.Size()-tailBytes)
	b, err := io.ReadAll(io.NewSectionReader(f, from, tailBytes))
	if err != nil {
		return ""
	}
	if from > p.from {
		// The first line was cut.
		if _, after, ok := strings.Cut(string(b), "\n"); ok {
			return strings.TrimSpace(after)
		}
	}
	return strings.TrimSpace(string(b))
}
