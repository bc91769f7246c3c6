package agent

import (
	"errors"
	"fmt"
	"os"
	"syscall"

	"banger/personas/guest/link"
	"banger/personas/guest/link/frame"
)

// exec runs one command for one client.
func (a *Agent) exec(r *frame.Reader, w *frame.Writer, req *link.ExecRequest) error {
	cmd, err := a.prepare(req)
	if err != nil {
		return notStarted(w, err)
	}
	s, err := a.openStreams(req, cmd.who)
	if err != nil {
		return err
	}
	proc, err := a.shield.without(func() (*os.Process, error) { return cmd.start(s.child, req.TTY) })
	s.closeChild()
	if err != nil {
		s.close()
		return notStarted(w, err)
	}
	a.execs.Add(1)
	p := newProcess(proc)
	if req.Detach {
		s.close()
		go func() {
			defer a.execs.Add(-1)
			p.wait()
		}()
		return w.JSON(frame.Started, link.StartedReply{PID: p.pid})
	}
	defer a.execs.Add(-1)
	return converse(r, w, p, s)
}

// notStarted answers with the exit code of a command that never ran.
func notStarted(w *frame.Writer, err error) error {
	var start *startError
	if !errors.As(err, &start) {
		return err
	}
	return w.JSON(frame.Exit, link.ExitReply{Code: start.code, Cause: start.Error()})
}

// A startError says why a command did not run, and the exit code a shell has for it.
type startError struct {
	code  int
	cause error
}

func (e *startError) Error() string { return e.cause.Error() }
func (e *startError) Unwrap() error { return e.cause }

const (
	codeCannotRun = 126
	codeNotFound  = 127
)

// A command is all that is known before it runs.
type command struct {
	args       []string
	env        []string
	dir        string
	who        identity
	candidates []string
}

// prepare settles who runs what, where, and with which environment.
func (a *Agent) prepare(req *link.ExecRequest) (*command, error) {
	spec := req.User
	if spec == "" {
		spec = a.config.Defaults.User
	}
	who, err := lookupIdentity(spec)
	if err != nil {
		return nil, &startError{codeCannotRun, err}
	}
	c := &command{args: req.Args, who: who}
	c.env = environment(who, req.TTY, a.config.Defaults.Env, req.Env)
	if c.dir, err = workDir(req.Dir, a.config.Defaults.Dir, who.home); err != nil {
		return nil, &startError{codeCannotRun, err}
	}
	c.candidates = candidates(req.Args[0], c.dir, getenv(c.env, "PATH"))
	return c, nil
}

// workDir picks the directory to start in. One that was asked for must exist;
// a home that is missing is none, as for login.
func workDir(asked, image, home string) (string, error) {
	for _, dir := range []string{asked, image} {
		if dir == "" {
			continue
		}
		info, err := os.Stat(dir)
		if err == nil && !info.IsDir() {
			err = &os.PathError{Op: "chdir", Path: dir, Err: syscall.ENOTDIR}
		}
		if err != nil {
			return "", fmt.Errorf("change directory: %w", err)
		}
		return dir, nil
	}
	if info, err := os.Stat(home); err == nil && info.IsDir() {
		return home, nil
	}
	return "/", nil
}

// start runs the first candidate that the user may run, in a session of its own.
func (c *command) start(files [3]*os.File, tty bool) (*os.Process, error) {
	attr := &os.ProcAttr{Dir: c.dir, Env: c.env, Files: files[:], Sys: &syscall.SysProcAttr{
		Setsid: true, Setctty: tty, Ctty: 0, Credential: c.who.credential(),
	}}
	failure := &startError{codeNotFound, fmt.Errorf("exec %q: not found", c.args[0])}
	for _, path := range c.candidates {
		proc, err := os.StartProcess(path, c.args, attr)
		switch {
		case err == nil:
			return proc, nil
		case errors.Is(err, syscall.ENOENT), errors.Is(err, syscall.ENOTDIR):
			continue
		case errors.Is(err, syscall.EAGAIN), errors.Is(err, syscall.ENOMEM):
			return nil, &startError{codeCannotRun, fmt.Errorf("exec %q: %w", c.args[0], err)}
		}
		// As execvp does: somewhere later in PATH there may be one that runs.
		// The directory is entered as the user too, which may be what is forbidden.
		failure = &startError{codeCannotRun, fmt.Errorf("exec %q in %q: %w", c.args[0], c.dir, unwrapPath(err))}
	}
	return nil, failure
}

// unwrapPath drops what os says about fork and exec: the caller says it better.
func unwrapPath(err error) error {
	var p *os.PathError
	if errors.As(err, &p) {
		return p.Err
	}
	return err
}
