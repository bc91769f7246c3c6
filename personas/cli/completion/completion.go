// Package completion writes the completion scripts of bash, zsh and fish out of
// the grammar, so that they never fall behind it.
//
// A script is static but for the names of VMs, images and kernels, for which it
// asks the binary at the time: `banger __complete vm`. The shells share one
// plan: walk the words up to the cursor to the deepest command that they name,
// then offer what that command takes.
package completion

import (
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/alecthomas/kong"
)

// Write writes the script of shell, which is bash, zsh or fish, for the program
// that app describes.
func Write(w io.Writer, shell string, app *kong.Application) error {
	commands := collect(app)
	var script string
	switch shell {
	case "bash":
		script = bash(app.Name, commands)
	case "zsh":
		script = zsh(app.Name, commands)
	case "fish":
		script = fish(app.Name, commands)
	default:
		return fmt.Errorf("write completion: unknown shell %q", shell)
	}
	_, err := io.WriteString(w, script)
	return err
}

// command is one command, or the program itself, and what may follow it.
type command struct {
	path  string // such as "vm run"; empty for the program itself
	subs  []word
	flags []flag
	args  []string // values of an argument that has a few
	names string   // vm, image or kernel, for an argument that is such a name
	files bool     // an argument is a file
}

// word is something to type, with its help.
type word struct{ text, help string }

type flag struct {
	long   string
	short  string // empty if there is none
	help   string
	value  bool
	values []string // the only ones that the flag takes
	names  string   // as in command
	dir    bool     // the value is a directory
}

// collect lists the program and all its commands, outer ones first.
func collect(app *kong.Application) []command {
	var out []command
	var visit func(n *kong.Node, path string, inherited []flag)
	visit = func(n *kong.Node, path string, inherited []flag) {
		c := command{path: path, flags: append(slices.Clone(inherited), flagsOf(n)...)}
		for _, p := range n.Positional {
			c.addArgument(p)
		}
		for _, sub := range n.Children {
			if !sub.Hidden {
				c.subs = append(c.subs, word{sub.Name, sub.Help})
			}
		}
		out = append(out, c)
		for _, sub := range n.Children {
			if !sub.Hidden {
				visit(sub, strings.TrimSpace(path+" "+sub.Name), c.flags)
			}
		}
	}
	visit(app.Node, "", nil)
	return out
}

func flagsOf(n *kong.Node) []flag {
	var out []flag
	for _, f := range n.Flags {
		if f.Hidden {
			continue
		}
		c := flag{long: f.Name, help: f.Help, value: !f.IsBool()}
		if f.Short != 0 {
			c.short = string(f.Short)
		}
		if f.Enum != "" {
			c.values = f.EnumSlice()
		}
		c.names = known(f.Name)
		c.dir = f.PlaceHolder == "DIR" && f.Name != "workdir" // that one is the guest's
		out = append(out, c)
	}
	return out
}

func (c *command) addArgument(p *kong.Positional) {
	switch {
	case p.Enum != "":
		c.args = p.EnumSlice()
	case known(p.Name) != "":
		c.names = known(p.Name)
	case p.Name == "file":
		c.files = true
	case p.Name == "path":
		c.files, c.names = true, "vm"
	}
}

// known returns name if the daemon has a list of what it stands for.
func known(name string) string {
	switch name {
	case "vm", "image", "kernel":
		return name
	}
	return ""
}

// dashed lists the flags as they are typed.
func (c *command) dashed() []string {
	var out []string
	for _, f := range c.flags {
		out = append(out, "--"+f.long)
		if f.short != "" {
			out = append(out, "-"+f.short)
		}
	}
	return out
}

// spellings lists how f is typed, for a case of a shell.
func (f *flag) spellings() []string {
	if f.short == "" {
		return []string{"--" + f.long}
	}
	return []string{"--" + f.long, "-" + f.short}
}

// quote quotes s for every one of the shells.
func quote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }
