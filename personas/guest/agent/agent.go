// Package agent serves the requests that the host sends into a running guest:
// commands, copies, questions, and the end. It runs as root of the guest, in a
// process of its own beside whatever is PID 1.
//
// One connection is one request. What the host sends is checked before anything
// is done, not because the host were an enemy, but because a request that is
// half understood must not be half done.
package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"banger/personas/guest/link"
	"banger/personas/guest/link/frame"
)

const (
	// maxConns bounds the requests at one time; one more is told so.
	maxConns = 256
	// requestTimeout bounds the wait for the first frame.
	requestTimeout = 10 * time.Second
	// acceptPause is between two tries to accept while the guest has not enough
	// of something.
	acceptPause = 100 * time.Millisecond
	// refusedLinger bounds how long a refused client may go on sending, so
	// that it reads the reason instead of a reset.
	refusedLinger = 5 * time.Second
)

// Config is what an Agent needs to know of the guest.
type Config struct {
	// Version is the version of the banger binary.
	Version string
	// Defaults hold for commands that do not say otherwise.
	Defaults link.ExecDefaults
	// Console takes the output of detached commands. Empty discards it.
	Console string
	// Disk is a directory on the VM's own file system, to be measured. Empty
	// is the root directory.
	Disk string
	// Shutdown begins the end of the guest. It may take as long as the guest
	// takes to end. Nil refuses.
	Shutdown func(link.ShutdownRequest) error
}

// An Agent serves one guest.
type Agent struct {
	config Config
	shield *shield // nil without one; set before Serve
	execs  atomic.Int64
}

// New returns an Agent.
func New(config Config) *Agent { return &Agent{config: config} }

// Serve answers the connections that l accepts until ctx is done, and returns
// when the last has ended. It closes l. Commands whose client is gone are hung
// up; detached ones live on.
func (a *Agent) Serve(ctx context.Context, l net.Listener) error {
	stop := context.AfterFunc(ctx, func() { l.Close() })
	defer stop()
	defer l.Close()
	var conns sync.WaitGroup
	defer conns.Wait()
	slots := make(chan struct{}, maxConns)
	for {
		conn, err := l.Accept()
		switch {
		case ctx.Err() != nil:
			if err == nil {
				conn.Close()
			}
			return nil
		case errors.Is(err, unix.ECONNABORTED), errors.Is(err, unix.ECONNRESET):
			continue // the client was faster
		case scarce(err):
			select {
			case <-time.After(acceptPause):
			case <-ctx.Done():
			}
			continue
		case err != nil:
			return fmt.Errorf("accept: %w", err)
		}
		select {
		case slots <- struct{}{}:
		default:
			refuse(conn)
			continue
		}
		conns.Go(func() {
			defer func() { <-slots }()
			a.Handle(ctx, conn)
		})
	}
}

// scarce reports whether err is a want of what comes back when others end. An
// agent that ended by it would not be started again.
func scarce(err error) bool {
	for _, errno := range []error{unix.EMFILE, unix.ENFILE, unix.ENOBUFS, unix.ENOMEM} {
		if errors.Is(err, errno) {
			return true
		}
	}
	return false
}

// refuse tells a client that there are too many, without waiting for it.
func refuse(conn net.Conn) {
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(time.Second))
	_ = frame.NewWriter(conn).Fail(fmt.Errorf("guest is busy: %d requests at once", maxConns))
}

// Handle serves the one request of conn, and closes it.
func (a *Agent) Handle(ctx context.Context, conn net.Conn) {
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	w := frame.NewWriter(conn)
	err := a.serve(conn, frame.NewReader(conn), w)
	if err == nil {
		return
	}
	// Whether the client still reads is its own affair.
	if w.Fail(err) == nil {
		_ = conn.SetReadDeadline(time.Now().Add(refusedLinger))
		_, _ = io.Copy(io.Discard, conn)
	}
}

// serve reads the request and does it. An error is for the client.
func (a *Agent) serve(conn net.Conn, r *frame.Reader, w *frame.Writer) error {
	if err := conn.SetReadDeadline(time.Now().Add(requestTimeout)); err != nil {
		return err
	}
	t, payload, err := r.Next()
	switch {
	case err != nil:
		return err
	case t != frame.Request:
		return frame.Unexpected(t)
	}
	req, err := link.DecodeRequest(payload)
	if err != nil {
		return err
	}
	if err := conn.SetReadDeadline(time.Time{}); err != nil {
		return err
	}
	switch {
	case req.Exec != nil:
		return a.exec(r, w, req.Exec)
	case req.CopyIn != nil:
		return copyIn(r, w, req.CopyIn)
	case req.CopyOut != nil:
		return copyOut(w, req.CopyOut)
	case req.Dial != nil:
		return dial(conn, w, req.Dial)
	case req.Stats != nil:
		return a.stats(w)
	default:
		return a.shutdown(w, req.Shutdown)
	}
}

// shutdown answers when all that was written is on the disk, and only then
// begins the end: the answer must not be lost in it.
func (a *Agent) shutdown(w *frame.Writer, req *link.ShutdownRequest) error {
	if a.config.Shutdown == nil {
		return errors.New("shut down: not possible here")
	}
	unix.Sync()
	if err := w.JSON(frame.Answer, link.Nothing{}); err != nil {
		return err
	}
	return a.config.Shutdown(*req)
}
