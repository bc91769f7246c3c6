package link

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"sync"
	"syscall"
	"time"

	"banger/personas/guest/link/frame"
)

// ExecIO is what a client gives a command.
type ExecIO struct {
	// Stdin is sent until its end when ExecRequest.Stdin is set.
	Stdin io.Reader
	// Stdout and Stderr take what the command writes. Nil discards it.
	Stdout, Stderr io.Writer
	// Resize and Signals are sent as they come. Nil sends none. Exec never
	// closes them, and stops to receive when it returns.
	Resize  <-chan WinSize
	Signals <-chan syscall.Signal
}

// StartedReply is the payload of a Started frame.
type StartedReply struct {
	// PID is the command's process id in the guest.
	PID int `json:"pid"`
}

// ExitReply is the payload of an Exit frame.
type ExitReply struct {
	// Code is the exit code, 128+n for a command that signal n has killed, 126
	// for one that could not be run, 127 for one that was not found.
	Code int `json:"code"`
	// Cause says why the command was never started. Empty if it was.
	Cause string `json:"cause,omitempty"`
}

// A StartError is a command that never ran. Its exit code is 126 or 127, as a
// shell has it.
type StartError struct {
	Code int
	// Cause is untrusted text; Error escapes it.
	Cause string
}

// Error implements error.
func (e *StartError) Error() string { return frame.Printable(e.Cause) }

// Exec runs one command through conn, a fresh connection to the agent, and
// returns its exit code. A command that could not be started returns 126 or 127
// and a *StartError. Any other error means that the exit code is not known, and
// the code is -1.
//
// Exec closes conn. When ctx ends first, the agent hangs the command up: SIGHUP
// to its process group, SIGKILL after HangupGrace. With Detach, Exec returns 0
// as soon as the command runs.
//
// Exec may return while a Read of Stdin is still blocked: what that Read takes
// is lost.
func Exec(ctx context.Context, conn net.Conn, req ExecRequest, stdio ExecIO) (int, error) {
	defer conn.Close()
	defer interruptible(ctx, conn)()
	r, w := frame.NewReader(conn), frame.NewWriter(conn)
	if err := open(ctx, conn, w, Request{Exec: &req}); err != nil {
		return -1, explain(ctx, "exec", err)
	}
	exit, err := start(r)
	if err == nil && exit == nil {
		if req.Detach {
			return 0, nil
		}
		if err := unbound(ctx, conn); err != nil {
			return -1, explain(ctx, "exec", err)
		}
		exit, err = converse(conn, r, w, req, stdio)
	}
	if err != nil {
		return -1, explain(ctx, "exec", err)
	}
	if exit.Cause != "" {
		return exit.Code, &StartError{Code: exit.Code, Cause: exit.Cause}
	}
	return exit.Code, nil
}

// start waits until the command runs, or did not come to.
func start(r *frame.Reader) (*ExitReply, error) {
	t, payload, err := r.Next()
	if err != nil {
		return nil, err
	}
	switch t {
	case frame.Started:
		return nil, nil
	case frame.Exit:
		return decodeExit(payload)
	case frame.Failed:
		return nil, frame.ReadFailure(payload)
	}
	return nil, frame.Unexpected(t)
}

func decodeExit(payload []byte) (*ExitReply, error) {
	exit := new(ExitReply)
	if err := frame.Decode(payload, exit); err != nil {
		return nil, err
	}
	if exit.Code < 0 || exit.Code > 255 {
		return nil, fmt.Errorf("%w: exit code %d", ErrProtocol, exit.Code)
	}
	return exit, nil
}

// converse carries the streams of a running command until it has ended.
func converse(conn net.Conn, r *frame.Reader, w *frame.Writer, req ExecRequest, stdio ExecIO) (*ExitReply, error) {
	win := newWindow(StdinWindow)
	done := make(chan struct{})
	var control sync.WaitGroup
	control.Go(func() { sendControl(w, stdio, done) })
	defer control.Wait()
	// What is on its way to a guest that reads no more would be waited for.
	defer func() { _ = conn.SetWriteDeadline(time.Unix(1, 0)) }()
	defer close(done)
	defer win.close()
	if req.Stdin && stdio.Stdin != nil {
		// Not waited for: nothing can wake a blocked Read of a terminal.
		go sendStdin(w, stdio.Stdin, win)
	}
	for {
		t, payload, err := r.Next()
		if err != nil {
			return nil, err
		}
		switch t {
		case frame.Stdout:
			err = deliver(stdio.Stdout, payload, "standard output")
		case frame.Stderr:
			err = deliver(stdio.Stderr, payload, "standard error")
		case frame.Window:
			err = grant(win, payload)
		case frame.Exit:
			return decodeExit(payload)
		case frame.Failed:
			err = frame.ReadFailure(payload)
		default:
			err = frame.Unexpected(t)
		}
		if err != nil {
			return nil, err
		}
	}
}

func deliver(w io.Writer, payload []byte, name string) error {
	if w == nil {
		return nil
	}
	if _, err := w.Write(payload); err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	return nil
}

func grant(win *window, payload []byte) error {
	if len(payload) != 4 || !win.give(int64(binary.BigEndian.Uint32(payload))) {
		return fmt.Errorf("%w: window", ErrProtocol)
	}
	return nil
}

// sendStdin sends all of stdin, as fast as the command takes it. What goes wrong
// with the connection is seen by whoever reads from it.
func sendStdin(w *frame.Writer, stdin io.Reader, win *window) {
	buf := make([]byte, frame.MaxData/2)
	for {
		n, err := stdin.Read(buf)
		for rest := buf[:n]; len(rest) > 0; {
			size := win.take(len(rest))
			if size == 0 || w.Write(frame.Stdin, rest[:size]) != nil {
				return
			}
			rest = rest[size:]
		}
		if err != nil {
			// A failing read ends the input like its end does: the command
			// must not wait for what never comes.
			_ = w.Write(frame.StdinEOF)
			return
		}
	}
}

// sendControl sends sizes and signals until done is closed.
func sendControl(w *frame.Writer, stdio ExecIO, done <-chan struct{}) {
	resize, signals := stdio.Resize, stdio.Signals
	for {
		var err error
		select {
		case <-done:
			return
		case size, ok := <-resize:
			if !ok {
				resize = nil
				continue
			}
			p := binary.BigEndian.AppendUint16(nil, size.Rows)
			err = w.Write(frame.Resize, binary.BigEndian.AppendUint16(p, size.Cols))
		case sig, ok := <-signals:
			if !ok {
				signals = nil
				continue
			}
			err = w.Write(frame.Signal, []byte{byte(sig)})
		}
		if err != nil {
			return
		}
	}
}
