package cli

import (
	"os"
)

// ioFlags say how a command in a guest is joined to this terminal.
type ioFlags struct {
	Interactive bool `short:"i" help:"Pass standard input to the command. Without it, the command reads nothing."`
	TTY         bool `short:"t" name:"tty" help:"Give the command a terminal of its own."`
}

// command is what shall run in a guest, and how.
type command struct {
	args       []string
	env        []string
	user, dir  string
	stdin, tty bool
	detach     bool
}

// command returns the command that args and f ask for. Without args it is a
// shell: on a terminal if this is one, else one that reads its commands from
// standard input.
func (a *app) command(args []string, f ioFlags) (command, error) {
	// kong leaves the "--" that the user wrote; one that is not first is the
	// command's own.
	if len(args) > 0 && args[0] == "--" {
		args = args[1:]
	}
	c := command{args: args, stdin: f.Interactive, tty: f.TTY}
	if len(args) == 0 {
		c.stdin = true
		c.tty = f.TTY || isTerminal(a.in) && isTerminal(a.out)
		c.args = shell(c.tty)
	} else if args[0] == "" {
		return c, usagef("the command is empty")
	}
	if f.TTY && c.stdin && !isTerminal(a.in) {
		return c, &usageError{"standard input is not a terminal", "leave out -t, or -i"}
	}
	if term := os.Getenv("TERM"); c.tty && term != "" {
		c.env = append(c.env, "TERM="+term)
	}
	return c, nil
}

// shell returns the command for the user's own shell in the guest, which only
// the guest knows.
func shell(login bool) []string {
	script := `[ -x "$SHELL" ] || SHELL=/bin/sh; exec "$SHELL"`
	if login {
		script += " -l"
	}
	return []string{"/bin/sh", "-c", script}
}
