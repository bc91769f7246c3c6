package host

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// User is who a command of the host runs as.
type User int

const (
	// Root is root who logged in as such.
	Root User = iota
	// Sudo is root on behalf of the owner.
	Sudo
	// Owner is the owner, without any right.
	Owner
)

// RootHome is the home of [Root]: the machine's /root is not the host's to write to.
const RootHome = "/home/root"

// Result is what a command did.
type Result struct {
	Stdout, Stderr string
	Code           int // exit code, 128 and the signal's number where one killed it
}

// String tells the result for the message of a failed test.
func (r Result) String() string {
	return fmt.Sprintf("exit code %d\nstdout: %s\nstderr: %s", r.Code, r.Stdout, r.Stderr)
}

// Cmd is a command of a host.
type Cmd struct {
	*exec.Cmd
	h *Host
}

// Cmd returns a command of the host that is yet to be started. "banger" is the
// binary under test. It runs in a process group of its own: to signal it,
// signal the group (see [Cmd.Signal]). When ctx ends the group is killed.
func (h *Host) Cmd(ctx context.Context, user User, args ...string) *Cmd {
	if args[0] == "banger" {
		args = append([]string{h.config.Banger}, args[1:]...)
	}
	cmd := &Cmd{Cmd: exec.CommandContext(ctx, args[0], args[1:]...), h: h}
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Env = []string{"PATH=" + path, "TERM=xterm", "LANG=C.UTF-8"}
	switch user {
	case Root:
		cmd.Env = append(cmd.Env, "HOME="+RootHome, "USER=root")
	case Sudo:
		cmd.Env = append(cmd.Env, "HOME=/root", "USER=root", "SUDO_USER="+OwnerName,
			fmt.Sprintf("SUDO_UID=%d", OwnerID), fmt.Sprintf("SUDO_GID=%d", OwnerID))
	case Owner:
		cmd.Env = append(cmd.Env, "HOME=/home/"+OwnerName, "USER="+OwnerName)
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: OwnerID, Gid: OwnerID}
	}
	cmd.Cancel = func() error { return cmd.Signal(syscall.SIGKILL) }
	cmd.WaitDelay = 5 * time.Second
	return cmd
}

// Start starts the command as a child of the test that lives in the host.
func (c *Cmd) Start() error { return c.h.within(c.Cmd.Start) }

// Run starts the command and waits for its end.
func (c *Cmd) Run() error {
	if err := c.Start(); err != nil {
		return err
	}
	return c.Wait()
}

// Signal sends a signal to all processes of the command's group.
func (c *Cmd) Signal(sig syscall.Signal) error {
	err := syscall.Kill(-c.Process.Pid, sig)
	if errors.Is(err, syscall.ESRCH) {
		return os.ErrProcessDone
	}
	return err
}

// within runs f on a thread in all namespaces of the host. What f starts lives
// there; f itself keeps its process number, but sees the host's files.
func (h *Host) within(f func() error) error {
	done := make(chan error, 1)
	go func() {
		// The thread is never unlocked, so that it ends with the goroutine
		// and nothing else comes to run in the host.
		runtime.LockOSThread()
		done <- h.enter(f)
	}()
	return <-done
}

func (h *Host) enter(f func() error) error {
	fd, err := unix.PidfdOpen(h.pid, 0)
	if err != nil {
		return os.NewSyscallError("pidfd_open", err)
	}
	defer unix.Close(fd)
	// A thread that shares its root directory with others may not change
	// its mount namespace.
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return os.NewSyscallError("unshare", err)
	}
	const all = unix.CLONE_NEWNS | unix.CLONE_NEWNET | unix.CLONE_NEWPID | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC
	if err := unix.Setns(fd, all); err != nil {
		return os.NewSyscallError("setns", err)
	}
	return f()
}

// Run runs a command of the host without input, for at most six minutes.
func (h *Host) Run(user User, args ...string) Result {
	h.t.Helper()
	return h.Input(user, "", args...)
}

// runTime bounds a command: banger alone waits three minutes for an emulated guest that
// hangs, and ten guests at once are slow.
const runTime = 6 * time.Minute

// Input is Run with standard input.
func (h *Host) Input(user User, stdin string, args ...string) Result {
	h.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), runTime)
	defer cancel()
	cmd := h.Cmd(ctx, user, args...)
	var stdout, stderr bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &stdout, &stderr
	err := cmd.Run()
	if ctx.Err() != nil {
		h.t.Fatalf("%s: no end after %v\nstdout: %s\nstderr: %s", strings.Join(args, " "), runTime, &stdout, &stderr)
	}
	r := Result{Stdout: stdout.String(), Stderr: stderr.String(), Code: Code(cmd.ProcessState)}
	if cmd.ProcessState == nil {
		h.t.Fatalf("%s: %v", strings.Join(args, " "), err)
	}
	return r
}

// Must is Run that ends the test unless the exit code is zero. It returns
// standard output without its last newline.
func (h *Host) Must(user User, args ...string) string {
	h.t.Helper()
	r := h.Run(user, args...)
	if r.Code != 0 {
		h.t.Fatalf("%s: %v", strings.Join(args, " "), r)
	}
	return strings.TrimSuffix(r.Stdout, "\n")
}

// Code returns the exit code as a shell tells it: 128 and the signal's number
// where a signal ended the process.
func Code(state *os.ProcessState) int {
	if state == nil {
		return -1
	}
	if ws, ok := state.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
		return 128 + int(ws.Signal())
	}
	return state.ExitCode()
}

// Pids returns the processes of the host whose argv[0] has this base name, by
// their numbers within the host.
func (h *Host) Pids(name string) []int {
	files, _ := filepath.Glob(h.Path("/proc/[0-9]*/cmdline"))
	var pids []int
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			continue // ended meanwhile
		}
		argv0, _, _ := strings.Cut(string(b), "\x00")
		if filepath.Base(argv0) != name {
			continue
		}
		if pid, err := strconv.Atoi(filepath.Base(filepath.Dir(file))); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids
}

// Kill sends a signal to the processes of that name. It ends the test if there
// is none, so that a test never believes that it killed what was not there.
func (h *Host) Kill(name string, sig syscall.Signal) {
	h.t.Helper()
	pids := h.Pids(name)
	if len(pids) == 0 {
		h.t.Fatalf("kill %s: no such process", name)
	}
	for _, pid := range pids {
		h.Run(Root, "kill", fmt.Sprintf("-%d", sig), strconv.Itoa(pid))
	}
}

// Wrapper returns a shell script that runs its arguments in the host, from the
// directory that it was called in, or banger with them. It is for programs
// that start commands themselves; [Host.Cmd] has exact signals besides.
func (h *Host) Wrapper(user User, banger bool) string {
	cmd := h.Cmd(context.Background(), user, "banger")
	as := ""
	if cred := cmd.SysProcAttr.Credential; cred != nil {
		as = fmt.Sprintf("setpriv --reuid=%d --regid=%d --clear-groups -- ", cred.Uid, cred.Gid)
	}
	run := `if [ "$1" = banger ]; then shift; set -- ` + h.config.Banger + ` "$@"; fi`
	if banger {
		run = "set -- " + h.config.Banger + ` "$@"`
	}
	return fmt.Sprintf("#!/bin/sh\n%s\nexec nsenter -t %d -m -u -i -n -p -- %senv -i -C \"$PWD\" %s \"$@\"\n",
		run, h.pid, as, strings.Join(cmd.Env, " "))
}
