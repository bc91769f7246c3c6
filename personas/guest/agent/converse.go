package agent

import (
	"encoding/binary"
	"errors"
	"io"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"banger/personas/guest/link"
	"banger/personas/guest/link/frame"
)

const (
	// drainTime is how long the output of what a command has left behind in
	// the background is still carried, after the command itself has ended.
	drainTime = 250 * time.Millisecond
	// drainBytes bounds what is read after that: as much as a pipe can hold,
	// so that all is carried that was written before the end.
	drainBytes = 1 << 20
	// outputBytes go into one frame at most.
	outputBytes = 32 << 10
)

// converse carries the streams of a running command until it has ended. The exit
// code is sent when all that the command wrote has been sent. A client that goes
// away hangs the command up.
func converse(r *frame.Reader, w *frame.Writer, p *process, s *streams) error {
	defer s.close()
	exited := make(chan int, 1)
	go func() { exited <- p.wait() }()
	if err := w.JSON(frame.Started, link.StartedReply{PID: p.pid}); err != nil {
		hangup(p, exited)
		return err
	}
	var pumps sync.WaitGroup
	for _, o := range s.outputs {
		pumps.Go(func() { pump(w, o) })
	}
	in := newInbox(link.StdinWindow)
	if s.stdin != nil {
		go feed(w, s, in)
	}
	gone := make(chan error, 1)
	go func() {
		gone <- listen(r, p, s, in)
		in.close()
	}()
	var code int
	select {
	case code = <-exited:
	case <-gone:
		code = hangup(p, exited)
	}
	for _, o := range s.outputs {
		_ = o.from.SetReadDeadline(time.Now().Add(drainTime))
	}
	pumps.Wait()
	in.close()
	return w.JSON(frame.Exit, link.ExitReply{Code: code})
}

// hangup ends a command whose client is gone, as a terminal's end would, and by
// force when that does not help.
func hangup(p *process, exited <-chan int) int {
	p.signal(syscall.SIGHUP)
	p.signal(syscall.SIGCONT) // a stopped command hears nothing
	force := time.NewTimer(link.HangupGrace)
	defer force.Stop()
	select {
	case code := <-exited:
		return code
	case <-force.C:
		p.signal(syscall.SIGKILL)
		return <-exited
	}
}

// listen obeys the client's frames until it is gone, or says what it must not.
func listen(r *frame.Reader, p *process, s *streams, in *inbox) error {
	for {
		t, payload, err := r.Next()
		if err != nil {
			return err
		}
		switch t {
		case frame.Stdin:
			if s.stdin == nil || !in.put(payload) {
				return frame.Unexpected(t)
			}
		case frame.StdinEOF:
			in.finish()
		case frame.Signal:
			if len(payload) != 1 {
				return frame.Unexpected(t)
			}
			p.signal(syscall.Signal(payload[0]))
		case frame.Resize:
			if len(payload) != 4 || s.tty == nil {
				return frame.Unexpected(t)
			}
			// A terminal that is closing has no size.
			_ = resize(s.tty, link.WinSize{
				Rows: binary.BigEndian.Uint16(payload), Cols: binary.BigEndian.Uint16(payload[2:]),
			})
		default:
			return frame.Unexpected(t)
		}
	}
}

// feed writes the input to the command, and tells the client how much it took.
func feed(w *frame.Writer, s *streams, in *inbox) {
	buf := make([]byte, outputBytes)
	for {
		n, err := in.take(buf)
		if errors.Is(err, io.EOF) {
			_ = s.endInput() // whoever does not read does not miss it
			return
		}
		if err != nil {
			return
		}
		if _, err := s.stdin.Write(buf[:n]); err != nil {
			return // EPIPE: the command reads no more; the client's window stays shut
		}
		if w.Write(frame.Window, binary.BigEndian.AppendUint32(nil, uint32(n))) != nil {
			return
		}
	}
}

// pump sends what comes from o until its end, or its deadline.
func pump(w *frame.Writer, o output) {
	buf := make([]byte, outputBytes)
	for {
		n, err := o.from.Read(buf)
		if n > 0 && w.Write(o.as, buf[:n]) != nil {
			return
		}
		if errors.Is(err, os.ErrDeadlineExceeded) {
			drain(w, o, buf)
			return
		}
		if err != nil {
			return // EOF, or EIO of a terminal that nobody has open any more
		}
	}
}

// drain sends what is in the pipe right now.
func drain(w *frame.Writer, o output, buf []byte) {
	for total := 0; total < drainBytes; {
		var n int
		err := control(o.from, func(fd int) (err error) {
			n, err = unix.Read(fd, buf)
			return err
		})
		if err != nil || n <= 0 || w.Write(o.as, buf[:n]) != nil {
			return
		}
		total += n
	}
}

// An inbox holds the input that a command has not taken yet, at most as much as
// the client's window allows.
type inbox struct {
	size int

	// mu guards the fields that follow; changed is signalled at each change.
	mu      sync.Mutex
	changed *sync.Cond
	buf     []byte
	ended   bool // no more input will come
	closed  bool // nobody wants it any more
}

func newInbox(size int) *inbox {
	in := &inbox{size: size}
	in.changed = sync.NewCond(&in.mu)
	return in
}

// put adds input. It reports false for input beyond the window, or after its end.
func (in *inbox) put(p []byte) bool {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.ended || len(in.buf)+len(p) > in.size {
		return false
	}
	in.buf = append(in.buf, p...)
	in.changed.Broadcast()
	return true
}

// take waits for input and moves it into p. The error is io.EOF after the last
// byte, and io.ErrClosedPipe after close.
func (in *inbox) take(p []byte) (int, error) {
	in.mu.Lock()
	defer in.mu.Unlock()
	for len(in.buf) == 0 && !in.ended && !in.closed {
		in.changed.Wait()
	}
	switch {
	case in.closed:
		return 0, io.ErrClosedPipe
	case len(in.buf) == 0:
		return 0, io.EOF
	}
	n := copy(p, in.buf)
	in.buf = append(in.buf[:0], in.buf[n:]...)
	return n, nil
}

func (in *inbox) finish() {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.ended = true
	in.changed.Broadcast()
}

func (in *inbox) close() {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.closed = true
	in.changed.Broadcast()
}
