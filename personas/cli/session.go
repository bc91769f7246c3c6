package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"golang.org/x/term"

	"banger/personas/api"
	"banger/personas/guest/link"
)

const (
	// impatience is the time within which three Ctrl-C mean: do not wait for
	// the command any more.
	impatience = time.Second
	// endGrace is how long a command may outlive a SIGTERM or SIGHUP to this
	// process.
	endGrace = 10 * time.Second
)

// forwarded are the signals that go to the command besides those that end.
var forwarded = []os.Signal{syscall.SIGQUIT, syscall.SIGUSR1, syscall.SIGUSR2}

// exec runs c in the VM and waits for its end. The error is an *exitStatus with
// the command's own code unless that is 0. Once the command's connection
// stands, no daemon is on its way.
func (a *app) exec(ctx context.Context, client *api.Client, vm string, c command) error {
	conn, err := client.Agent(ctx, vm)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	req := link.ExecRequest{
		Args: c.args, Env: c.env, User: c.user, Dir: c.dir,
		TTY: c.tty, Stdin: c.stdin, Detach: c.detach,
	}
	stdio := link.ExecIO{Stdin: a.in, Stdout: a.out, Stderr: a.err}
	if !c.detach {
		signals := make(chan syscall.Signal, 16)
		stdio.Signals = signals
		defer a.signals.take(forward(signals, cancel), forwarded...)()
		defer catchBrokenPipe()()
	}
	if c.tty {
		var release func()
		req.Size, stdio.Resize, release = watchSize(a.in, a.out)
		defer release()
	}
	if c.tty && c.stdin {
		restore, err := makeRaw(a.in)
		if err != nil {
			conn.Close()
			return err
		}
		defer restore()
	}
	code, err := link.Exec(ctx, conn, req, stdio)
	return a.execResult(ctx, client, vm, code, err)
}

// execResult turns what link.Exec has returned into the CLI's error.
func (a *app) execResult(ctx context.Context, client *api.Client, vm string, code int, err error) error {
	var never *link.StartError
	var ended *signalError
	switch {
	case err == nil && code == 0:
		return nil
	case err == nil:
		return &exitStatus{code: code}
	case errors.As(err, &never):
		return &exitStatus{code: never.Code, cause: never}
	case errors.As(context.Cause(ctx), &ended):
		return ended
	case errors.Is(err, syscall.EPIPE):
		return &exitStatus{code: exitSignal + int(syscall.SIGPIPE)}
	}
	return whyBroken(ctx, client, vm, err)
}

// whyBroken says more than that a connection broke where the VM itself ended.
func whyBroken(ctx context.Context, client *api.Client, name string, err error) error {
	ctx, cancel := context.WithTimeout(ctx, quickTimeout)
	defer cancel()
	vm, vmErr := client.VM(ctx, name)
	if vmErr != nil || vm.State == api.Running {
		return err
	}
	reason := ""
	if vm.Reason != "" {
		reason = ": " + vm.Reason
	}
	return fmt.Errorf("VM %q is %s since the command ran%s", vm.Name, vm.State, reason)
}

// forward returns a handler that passes signals on, and gives up on a command
// that does not end by them.
func forward(to chan<- syscall.Signal, giveUp context.CancelCauseFunc) func(syscall.Signal) {
	var presses [2]time.Time
	return func(sig syscall.Signal) {
		select {
		case to <- sig:
		default: // the guest does not take them
		}
		switch sig {
		case syscall.SIGINT:
			now := time.Now()
			if now.Sub(presses[0]) < impatience {
				giveUp(&signalError{sig})
			}
			presses[0], presses[1] = presses[1], now
		case syscall.SIGTERM, syscall.SIGHUP:
			// Nobody stops the timer: the process ends before or by it.
			time.AfterFunc(endGrace, func() { giveUp(&signalError{sig}) })
		}
	}
}

// catchBrokenPipe turns the death by a reader who has gone into an error of
// Write, so that the terminal is restored and the VM deleted.
func catchBrokenPipe() (release func()) {
	c := make(chan os.Signal, 1)
	signal.Notify(c, syscall.SIGPIPE)
	return func() { signal.Stop(c) }
}

// makeRaw lets every key, Ctrl-C too, reach the guest.
func makeRaw(f *os.File) (restore func(), err error) {
	if !isTerminal(f) {
		return func() {}, nil
	}
	state, err := term.MakeRaw(int(f.Fd()))
	if err != nil {
		return nil, fmt.Errorf("make terminal raw: %w", err)
	}
	return func() { _ = term.Restore(int(f.Fd()), state) }, nil
}

// watchSize returns the terminal's size and a channel with its later ones.
func watchSize(in, out *os.File) (first link.WinSize, later <-chan link.WinSize, release func()) {
	get := func() (link.WinSize, bool) {
		for _, f := range []*os.File{out, in} {
			if cols, rows, err := term.GetSize(int(f.Fd())); err == nil {
				return link.WinSize{Rows: uint16(rows), Cols: uint16(cols)}, true
			}
		}
		return link.WinSize{Rows: 24, Cols: 80}, false
	}
	sizes := make(chan link.WinSize)
	winch := make(chan os.Signal, 1)
	done := make(chan struct{})
	signal.Notify(winch, syscall.SIGWINCH)
	// Asked for after Notify, so that no change falls between.
	first, _ = get()
	go func() {
		for {
			select {
			case <-winch:
			case <-done:
				return
			}
			size, ok := get()
			if !ok {
				continue
			}
			select {
			case sizes <- size:
			case <-done:
				return
			}
		}
	}()
	return first, sizes, func() {
		signal.Stop(winch)
		close(done)
	}
}
