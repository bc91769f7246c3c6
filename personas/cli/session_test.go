package cli

import (
	"bufio"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/creack/pty"
	"golang.org/x/sys/unix"
)

// terminal runs cmd on a new terminal and returns our side of it.
func terminal(t *testing.T, cmd *exec.Cmd) (ours, theirs *os.File) {
	t.Helper()
	ours, theirs, err := pty.Open()
	if err != nil {
		t.Skip("no pseudo terminals: ", err)
	}
	t.Cleanup(func() { ours.Close(); theirs.Close() })
	pty.Setsize(ours, &pty.Winsize{Rows: 31, Cols: 97})
	cmd.Stdin, cmd.Stdout, cmd.Stderr = theirs, theirs, theirs
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	return ours, theirs
}

// screen is what a terminal shows. It is read all the time, as a terminal is.
type screen struct {
	lines chan string
	all   strings.Builder
}

func watch(r io.Reader) *screen {
	s := &screen{lines: make(chan string, 1<<10)}
	go func() {
		defer close(s.lines)
		for buf := bufio.NewReader(r); ; {
			line, err := buf.ReadString('\n')
			if err != nil {
				return
			}
			s.lines <- line
		}
	}()
	return s
}

// expect returns the next line that contains want.
func (s *screen) expect(t *testing.T, want string) string {
	t.Helper()
	for late := time.After(10 * time.Second); ; {
		select {
		case line, ok := <-s.lines:
			s.all.WriteString(line)
			if !ok {
				t.Fatalf("the terminal ended before %q:\n%q", want, s.all.String())
			}
			if strings.Contains(line, want) {
				return line
			}
		case <-late:
			t.Fatalf("waited in vain for %q:\n%q", want, s.all.String())
		}
	}
}

func TestShellOnATerminal(t *testing.T) {
	d := newFake(t)
	cmd := d.cmd("vm", "run", "--rm")
	cmd.Env = append(cmd.Env, "TERM=vt220")
	ours, theirs := terminal(t, cmd)
	before, err := unix.IoctlGetTermios(int(theirs.Fd()), unix.TCGETS)
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	screen := watch(ours)
	// What is typed ahead of the shell is not lost. The quotes keep the echo
	// from being taken for the answer.
	io.WriteString(ours, "echo terminal''-is $(stty size) $TERM\n")
	if line := screen.expect(t, "terminal-is"); !strings.Contains(line, "31 97 vt220") {
		t.Errorf("got %q", line)
	}
	// Ctrl-C is the guest's: the shell survives, what it runs does not.
	io.WriteString(ours, "sh -c 'echo sl\"\"eeps; exec sleep 100'\n")
	screen.expect(t, "sleeps")
	io.WriteString(ours, "\x03")
	io.WriteString(ours, "echo al''ive\n")
	screen.expect(t, "alive")
	// The shell's own handler for the size is asynchronous, so it is asked
	// until it knows.
	pty.Setsize(ours, &pty.Winsize{Rows: 11, Cols: 22})
	cmd.Process.Signal(syscall.SIGWINCH)
	io.WriteString(ours, "until [ \"$(stty size)\" = '11 22' ]; do sleep 0.02; done; echo re''sized\n")
	screen.expect(t, "resized")
	io.WriteString(ours, "exit 5\n")
	cmd.Wait()
	if code := cmd.ProcessState.ExitCode(); code != 5 {
		t.Errorf("exit %d, want 5", code)
	}
	after, err := unix.IoctlGetTermios(int(theirs.Fd()), unix.TCGETS)
	if err != nil || *after != *before {
		t.Errorf("terminal is not as before: %+v, %+v, %v", before, after, err)
	}
	if !strings.HasSuffix(d.log(), "delete vm-1 true") {
		t.Errorf("calls: %s", d.log())
	}
}

// It is the third interrupt within a second that gives up on a command; all are passed on.
func TestThirdInterruptGivesUp(t *testing.T) {
	for _, c := range []struct {
		pauses []time.Duration // before each interrupt
		gives  bool
	}{
		{[]time.Duration{0, 0}, false},
		{[]time.Duration{0, 0, 0}, true},
		{[]time.Duration{0, impatience / 2, impatience/2 - 1}, true},
		{[]time.Duration{0, impatience / 2, impatience / 2, impatience / 2}, false},
		{[]time.Duration{0, impatience, 0, 0}, true},
	} {
		synctest.Test(t, func(t *testing.T) {
			passed := make(chan syscall.Signal, len(c.pauses))
			var cause error
			press := forward(passed, func(err error) { cause = err })
			for i, pause := range c.pauses {
				if cause != nil {
					t.Errorf("%v: gave up at interrupt %d", c.pauses, i)
				}
				time.Sleep(pause)
				press(syscall.SIGINT)
			}
			if (cause != nil) != c.gives || len(passed) != len(c.pauses) {
				t.Errorf("%v: gave up: %v; %d passed on", c.pauses, cause, len(passed))
			}
		})
	}
}

// Even when the guest does not end, SIGTERM restores the terminal.
func TestTerminalIsRestoredAfterAStubbornGuest(t *testing.T) {
	d := newFake(t)
	cmd := d.cmd("vm", "run", "-q", "--rm", "-it", "--", "sh", "-c", "trap '' INT; echo ready; sleep 100")
	ours, theirs := terminal(t, cmd)
	before, _ := unix.IoctlGetTermios(int(theirs.Fd()), unix.TCGETS)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	screen := watch(ours)
	screen.expect(t, "ready")
	during, _ := unix.IoctlGetTermios(int(theirs.Fd()), unix.TCGETS)
	if *during == *before {
		t.Error("the terminal was never raw")
	}
	cmd.Process.Signal(syscall.SIGTERM)
	cmd.Wait()
	if code := cmd.ProcessState.ExitCode(); code != 143 {
		t.Errorf("exit %d", code)
	}
	after, _ := unix.IoctlGetTermios(int(theirs.Fd()), unix.TCGETS)
	if *after != *before {
		t.Error("terminal is not as before")
	}
}
