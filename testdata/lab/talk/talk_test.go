package talk

import (
	"bytes"
	"context"
	"io"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"
)

// connect returns a client of an agent in this process. What garbage is, the
// agent said before.
func connect(t *testing.T, garbage string) *Client {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	ours, its := net.Pipe()
	served := make(chan error, 1)
	go func() {
		io.WriteString(its, garbage)
		served <- Serve(its)
	}()
	c, err := Connect(t.Context(), ours)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		c.Close()
		if err := <-served; err != nil && err != io.ErrClosedPipe {
			t.Errorf("agent: %v", err)
		}
	})
	return c
}

func run(t *testing.T, c *Client, cmd Command, stdin string) (stdout, stderr string, code int) {
	t.Helper()
	var out, errs bytes.Buffer
	p, err := c.Start(cmd, Streams{Stdin: strings.NewReader(stdin), Stdout: &out, Stderr: &errs})
	if err != nil {
		t.Fatal(err)
	}
	code, err = p.Wait(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return out.String(), errs.String(), code
}

func TestCommandHasItsStreamsUserAndCode(t *testing.T) {
	c := connect(t, "")
	cmd := Command{User: "nobody", Args: []string{"sh", "-c", `cat; id -un >&2; echo $A "$1"; exit 7`, "sh", "two words"}, Env: []string{"A=1"}, Dir: "/"}
	stdout, stderr, code := run(t, c, cmd, "input\n")
	if stdout != "input\n1 two words\n" || stderr != "nobody\n" || code != 7 {
		t.Errorf("stdout %q, stderr %q, code %d", stdout, stderr, code)
	}
	if _, _, code := run(t, c, Command{User: "root", Args: []string{"sh", "-c", "kill -TERM $$"}}, ""); code != 128+15 {
		t.Errorf("killed command has code %d", code)
	}
}

func TestCommandThatCannotStartIsAnError(t *testing.T) {
	c := connect(t, "")
	for _, cmd := range []Command{
		{User: "root", Args: []string{"/no/such/program"}},
		{User: "nosuchuser", Args: []string{"true"}},
		{User: "root"},
	} {
		p, err := c.Start(cmd, Streams{})
		if err != nil {
			t.Fatal(err)
		}
		if code, err := p.Wait(t.Context()); err == nil {
			t.Errorf("%+v: no error, code %d", cmd, code)
		}
	}
}

func TestTalkBeginsAfterGarbage(t *testing.T) {
	c := connect(t, `ID":4,"Exit":{"Code":0}}`+"\n"+`{"Hello":{"Nonce":"another"}}`+"\n"+`{"ID":1,"Exit":{"Code":3}}`+"\n")
	if stdout, _, code := run(t, c, Command{User: "root", Args: []string{"echo", "hello"}}, ""); stdout != "hello\n" || code != 0 {
		t.Errorf("stdout %q, code %d", stdout, code)
	}
	if c.BootID == "" {
		t.Error("no boot id")
	}
}

func TestMuchFlowsBothWays(t *testing.T) {
	c := connect(t, "")
	const size = 8 << 20
	data := strings.Repeat("0123456789abcde\n", size/16)
	if stdout, _, _ := run(t, c, Command{User: "root", Args: []string{"cat"}}, data); stdout != data {
		t.Errorf("%d bytes came back, of %d", len(stdout), size)
	}
}

// TestCommandThatDoesNotReadHoldsNothingUp: all commands share one stream.
func TestCommandThatDoesNotReadHoldsNothingUp(t *testing.T) {
	c := connect(t, "")
	_, _, code := run(t, c, Command{User: "root", Args: []string{"sh", "-c", "exec <&-; sleep 0.5; exit 4"}}, strings.Repeat("x", 48<<20))
	if code != 4 {
		t.Errorf("code %d", code)
	}
}

func TestCommandEndsWithItsContext(t *testing.T) {
	c := connect(t, "")
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	p, err := c.Start(Command{User: "root", Args: []string{"sleep", "1000"}}, Streams{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.Wait(ctx); err != context.DeadlineExceeded {
		t.Errorf("error is %v", err)
	}
	if code, err := p.Wait(t.Context()); err != nil || code != 128+int(syscall.SIGKILL) {
		t.Errorf("code %d, error %v", code, err)
	}
}

func TestCommandHasATerminal(t *testing.T) {
	c := connect(t, "")
	stdout, _, code := run(t, c, Command{User: "root", Args: []string{"sh", "-c", "stty size; read x; echo got $x; exit 3"}, Terminal: &Size{Rows: 30, Columns: 90}}, "word\n")
	if !strings.Contains(stdout, "30 90") || !strings.Contains(stdout, "got word") || code != 3 {
		t.Errorf("stdout %q, code %d", stdout, code)
	}
}

func TestEndOfTalkEndsCommands(t *testing.T) {
	c := connect(t, "")
	p, err := c.Start(Command{User: "root", Args: []string{"sleep", "1000"}}, Streams{})
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
	if _, err := p.Wait(t.Context()); err == nil {
		t.Error("a lost command has no error")
	}
	if _, err := c.Start(Command{User: "root", Args: []string{"true"}}, Streams{}); err == nil {
		t.Error("a command starts after the end")
	}
}
