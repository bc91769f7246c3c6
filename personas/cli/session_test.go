package cli

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

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

// expect reads lines until one contains want.
func expect(t *testing.T, r *bufio.Reader, want string) string {
	t.Helper()
	found := make(chan string, 1)
	go func() {
		var all strings.Builder
		for {
			line, err := r.ReadString('\n')
			all.WriteString(line)
			if strings.Contains(line, want) {
				found <- line
				return
			}
			if err != nil {
				found <- fmt.Sprintf("MISSING in %q", all.String())
				return
			}
		}
	}()
	line := await(t, found, want)
	if strings.HasPrefix(line, "MISSING") {
		t.Fatalf("want %q: %s", want, line)
	}
	return line
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
	r := bufio.NewReader(ours)
	// What is typed ahead of the shell is not lost. The quotes keep the echo
	// from being taken for the answer.
	io.WriteString(ours, "echo terminal''-is $(stty size) $TERM\n")
	if line := expect(t, r, "terminal-is"); !strings.Contains(line, "31 97 vt220") {
		t.Errorf("got %q", line)
	}
	// Ctrl-C is the guest's: the shell survives, what it runs does not.
	io.WriteString(ours, "echo sl''eeps; sleep 100; echo not\"\"hing\n")
	expect(t, r, "sleeps")
	io.WriteString(ours, "\x03")
	io.WriteString(ours, "echo al''ive\n")
	expect(t, r, "alive")
	// The shell's own handler for the size is asynchronous, so it is asked
	// until it knows.
	pty.Setsize(ours, &pty.Winsize{Rows: 11, Cols: 22})
	cmd.Process.Signal(syscall.SIGWINCH)
	io.WriteString(ours, "until [ \"$(stty size)\" = '11 22' ]; do sleep 0.02; done; echo re''sized\n")
	expect(t, r, "resized")
	io.WriteString(ours, "exit 5\n")
	go io.Copy(io.Discard, r)
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

// Even when the guest does not end, SIGTERM restores the terminal.
func TestTerminalIsRestoredAfterAStubbornGuest(t *testing.T) {
	d := newFake(t)
	cmd := d.cmd("vm", "run", "-q", "--rm", "-it", "--", "sh", "-c", "trap '' INT; echo ready; sleep 100")
	ours, theirs := terminal(t, cmd)
	before, _ := unix.IoctlGetTermios(int(theirs.Fd()), unix.TCGETS)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	r := bufio.NewReader(ours)
	expect(t, r, "ready")
	during, _ := unix.IoctlGetTermios(int(theirs.Fd()), unix.TCGETS)
	if *during == *before {
		t.Error("the terminal was never raw")
	}
	go io.Copy(io.Discard, r)
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
