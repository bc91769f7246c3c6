package talk

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"os/user"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/creack/pty"
)

// Serve is the agent's side of the talk, until the stream ends. Commands that
// run then are killed. The caller is root.
func Serve(conn io.ReadWriter) error {
	ctx, cancel := context.WithCancel(context.Background())
	a := &agent{send: sender{w: conn}, commands: map[uint64]*running{}}
	defer a.wait.Wait()
	defer cancel()
	bootID, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return err
	}
	lines := bufio.NewScanner(conn)
	lines.Buffer(nil, maxLine)
	for lines.Scan() {
		var m message
		if err := json.Unmarshal(lines.Bytes(), &m); err != nil {
			continue // the rest of an older talk
		}
		switch r := a.find(m.ID); {
		case m.Hello != nil:
			a.send.send(message{Hello: &hello{Nonce: m.Hello.Nonce, BootID: strings.TrimSpace(string(bootID))}})
		case m.Start != nil:
			a.start(ctx, m.ID, *m.Start)
		case r == nil: // it has ended meanwhile
		case m.Input != nil:
			r.input <- *m.Input
		case m.Resize != nil && r.terminal != nil:
			pty.Setsize(r.terminal, &pty.Winsize{Rows: m.Resize.Rows, Cols: m.Resize.Columns})
		case m.Signal != 0:
			syscall.Kill(-r.cmd.Process.Pid, syscall.Signal(m.Signal))
		}
	}
	return lines.Err()
}

type agent struct {
	send sender
	wait sync.WaitGroup

	// mu guards commands.
	mu       sync.Mutex
	commands map[uint64]*running
}

// running is a command that was started.
type running struct {
	cmd      *exec.Cmd
	terminal *os.File // or nil
	input    chan input
}

func (a *agent) find(id uint64) *running {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.commands[id]
}

// start starts a command and tells its end.
func (a *agent) start(ctx context.Context, id uint64, c Command) {
	cmd, err := prepare(ctx, c)
	if err != nil {
		a.send.send(message{ID: id, Exit: &exit{Error: err.Error()}})
		return
	}
	r := &running{cmd: cmd, input: make(chan input, 1<<10)}
	stdin, err := a.connect(id, r, c)
	if err != nil {
		a.send.send(message{ID: id, Exit: &exit{Error: err.Error()}})
		return
	}
	a.mu.Lock()
	a.commands[id] = r
	a.mu.Unlock()
	ended := make(chan struct{})
	a.wait.Go(func() { pour(stdin, r, ended) })
	a.wait.Go(func() {
		var copied sync.WaitGroup
		if r.terminal != nil {
			copied.Go(func() { io.Copy(writer{a, id, false}, r.terminal) })
		}
		err := cmd.Wait()
		copied.Wait()
		close(ended)
		a.mu.Lock()
		delete(a.commands, id)
		a.mu.Unlock()
		a.send.send(message{ID: id, Exit: end(cmd.ProcessState, err)})
	})
}

// connect starts the command with its streams and returns its standard input.
func (a *agent) connect(id uint64, r *running, c Command) (io.WriteCloser, error) {
	if c.Terminal != nil {
		var err error
		r.cmd.SysProcAttr.Setpgid = false // pty makes a session
		r.terminal, err = pty.StartWithSize(r.cmd, &pty.Winsize{Rows: c.Terminal.Rows, Cols: c.Terminal.Columns})
		return r.terminal, err
	}
	r.cmd.Stdout, r.cmd.Stderr = writer{a, id, false}, writer{a, id, true}
	stdin, err := r.cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	return stdin, r.cmd.Start()
}

// pour writes input to a command until the command ends. What comes after its
// standard input was closed is thrown away, so that the talk goes on. A terminal
// is not closed, for it is read from too.
func pour(w io.WriteCloser, r *running, ended <-chan struct{}) {
	defer w.Close()
	closed := false
	for {
		select {
		case in := <-r.input:
			if closed {
				continue
			}
			if _, err := w.Write(in.Data); r.terminal == nil && (in.End || err != nil) {
				w.Close()
				closed = true
			}
		case <-ended:
			return
		}
	}
}

// writer sends what a command prints.
type writer struct {
	agent  *agent
	id     uint64
	stderr bool
}

func (w writer) Write(p []byte) (int, error) {
	for rest := p; len(rest) > 0; {
		n := min(len(rest), chunk)
		if err := w.agent.send.send(message{ID: w.id, Output: &output{Stderr: w.stderr, Data: rest[:n]}}); err != nil {
			return 0, err
		}
		rest = rest[n:]
	}
	return len(p), nil
}

// prepare returns a command as a login of its user has it.
func prepare(ctx context.Context, c Command) (*exec.Cmd, error) {
	if len(c.Args) == 0 {
		return nil, errors.New("no command")
	}
	u, err := user.Lookup(c.User)
	if err != nil {
		return nil, err
	}
	cred, err := credential(u)
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, c.Args[0], c.Args[1:]...)
	cmd.Dir = c.Dir
	if cmd.Dir == "" {
		cmd.Dir = u.HomeDir
	}
	cmd.Env = append(os.Environ(), "HOME="+u.HomeDir, "USER="+u.Username, "LOGNAME="+u.Username, "SHELL=/bin/bash", "LANG=C.UTF-8", "TERM=xterm")
	cmd.Env = append(cmd.Env, c.Env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: cred, Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = 2 * time.Second // for what was left in the background
	return cmd, nil
}

func credential(u *user.User) (*syscall.Credential, error) {
	uid, err := strconv.ParseUint(u.Uid, 10, 32)
	if err != nil {
		return nil, err
	}
	gid, err := strconv.ParseUint(u.Gid, 10, 32)
	if err != nil {
		return nil, err
	}
	ids, err := u.GroupIds()
	if err != nil {
		return nil, err
	}
	cred := &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
	for _, id := range ids {
		group, err := strconv.ParseUint(id, 10, 32)
		if err != nil {
			return nil, err
		}
		cred.Groups = append(cred.Groups, uint32(group))
	}
	return cred, nil
}

func end(state *os.ProcessState, err error) *exit {
	if state == nil {
		return &exit{Error: err.Error()}
	}
	if ws, ok := state.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
		return &exit{Code: 128 + int(ws.Signal())}
	}
	return &exit{Code: state.ExitCode()}
}
