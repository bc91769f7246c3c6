package host

import (
	"bytes"
	"context"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/creack/pty"
)

// Terminal is a command of the host that runs on a terminal.
type Terminal struct {
	h    *Host
	cmd  *Cmd
	ptmx *os.File

	done chan struct{} // closed when all output was read

	// mu guards the fields that follow.
	mu     sync.Mutex
	output bytes.Buffer
	seen   int           // how much of output Expect has passed
	more   chan struct{} // closed and replaced when output grows
}

// patience is how long a terminal is waited for: longer than banger waits for an emulated
// guest that hangs, and is started once more.
const patience = 4 * time.Minute

// Pty starts a command of the host on a terminal of 24 rows and 80 columns.
func (h *Host) Pty(ctx context.Context, user User, args ...string) *Terminal {
	h.t.Helper()
	cmd := h.Cmd(ctx, user, args...)
	// A session of its own instead of a group of its own: pty sets that.
	cmd.SysProcAttr.Setpgid = false
	var ptmx *os.File
	err := h.within(func() (err error) {
		ptmx, err = pty.StartWithSize(cmd.Cmd, &pty.Winsize{Rows: 24, Cols: 80})
		return err
	})
	if err != nil {
		h.t.Fatalf("start %s on a terminal: %v", strings.Join(args, " "), err)
	}
	term := &Terminal{h: h, cmd: cmd, ptmx: ptmx, done: make(chan struct{}), more: make(chan struct{})}
	go term.read()
	h.t.Cleanup(func() {
		cmd.Signal(syscall.SIGKILL)
		ptmx.Close()
		<-term.done
	})
	return term
}

func (t *Terminal) read() {
	defer close(t.done)
	buf := make([]byte, 4096)
	for {
		n, err := t.ptmx.Read(buf)
		t.mu.Lock()
		t.output.Write(buf[:n])
		close(t.more)
		t.more = make(chan struct{})
		t.mu.Unlock()
		if err != nil {
			return // EIO: the last process has closed the terminal
		}
	}
}

// Type types text.
func (t *Terminal) Type(text string) {
	t.h.t.Helper()
	if _, err := t.ptmx.WriteString(text); err != nil {
		t.h.t.Fatalf("type %q: %v", text, err)
	}
}

// Resize changes the terminal's size.
func (t *Terminal) Resize(rows, cols uint16) {
	t.h.t.Helper()
	if err := pty.Setsize(t.ptmx, &pty.Winsize{Rows: rows, Cols: cols}); err != nil {
		t.h.t.Fatalf("resize terminal: %v", err)
	}
}

// Expect waits until the terminal has shown text after what was expected
// before, for at most four minutes.
func (t *Terminal) Expect(text string) {
	t.h.t.Helper()
	deadline := time.After(patience)
	for {
		t.mu.Lock()
		i := strings.Index(t.output.String()[t.seen:], text)
		if i >= 0 {
			t.seen += i + len(text)
		}
		more := t.more
		t.mu.Unlock()
		if i >= 0 {
			return
		}
		select {
		case <-more:
		case <-t.done:
			t.h.t.Fatalf("terminal closed without %q: %q", text, t.Output())
		case <-deadline:
			t.h.t.Fatalf("terminal did not show %q: %q", text, t.Output())
		}
	}
}

// Output returns everything that the terminal has shown.
func (t *Terminal) Output() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.output.String()
}

// Wait waits for the end of the command, for at most four minutes, and returns
// its exit code.
func (t *Terminal) Wait() int {
	t.h.t.Helper()
	ended := make(chan struct{})
	go func() { t.cmd.Wait(); close(ended) }()
	select {
	case <-ended:
	case <-time.After(patience):
		t.cmd.Signal(syscall.SIGKILL)
		<-ended
		t.h.t.Fatalf("command on the terminal did not end: %q", t.Output())
	}
	<-t.done
	return Code(t.cmd.ProcessState)
}
