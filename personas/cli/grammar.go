package cli

import (
	"cmp"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"

	"github.com/alecthomas/kong"
)

// grammar is the whole command line.
type grammar struct {
	Global globals `embed:""`

	VM         vmCmd         `cmd:"" name:"vm" help:"Run, create and manage VMs."`
	Image      imageCmd      `cmd:"" help:"Import and manage root file systems."`
	Kernel     kernelCmd     `cmd:"" help:"Import and manage guest kernels."`
	Config     configCmd     `cmd:"" help:"Look at your configuration."`
	System     systemCmd     `cmd:"" help:"Look at what banger has on this host."`
	Doctor     doctorCmd     `cmd:"" help:"Check whether this host can run VMs."`
	SSHConfig  sshConfigCmd  `cmd:"" name:"ssh-config" help:"Let ssh find VMs by name."`
	Version    versionCmd    `cmd:"" help:"Print the version."`
	Completion completionCmd `cmd:"" help:"Print the completion script of a shell."`
	Complete   completeCmd   `cmd:"" name:"__complete" hidden:""`
	SSHConnect sshConnectCmd `cmd:"" name:"ssh-connect" hidden:""`
	SSHHostKey sshHostKeyCmd `cmd:"" name:"ssh-host-key" hidden:""`
}

// globals are the flags of every command.
type globals struct {
	Output string `short:"o" enum:"table,json" default:"table" placeholder:"table|json" help:"How results are printed: table or json."`
	Quiet  bool   `short:"q" help:"No progress and no notices; of a list, the names only."`
}

const description = `Real virtual machines from one command.

  sudo banger vm run                               an interactive shell in a fresh VM
  sudo banger vm run --rm -- sh -c 'exit 42'       one command; the VM is gone afterwards

Exit codes: that of the guest's command; 2 for a wrong command line; 125 when banger itself failed; 128+n after signal n.`

// parse returns the command that args are, or nil if help was asked for and
// printed.
//
// kong takes as long to build a grammar as everything else to start, so it first
// gets that of the one command that args name. What it accepts means the same by
// the whole grammar. What it does not, the whole one explains.
func (a *app) parse(args []string) (*kong.Context, error) {
	whole := reflect.TypeFor[grammar]()
	if t, ok := only(whole, args); ok {
		if parsed, err := a.parseBy(t, args); err == nil {
			return parsed, nil
		}
	}
	parsed, err := a.parseBy(whole, args)
	if err != nil {
		return nil, parseError(err)
	}
	return parsed, nil
}

// parseBy is parse by a grammar of type t.
func (a *app) parseBy(t reflect.Type, args []string) (*kong.Context, error) {
	g := reflect.New(t)
	helped := false
	parser, err := newParser(g.Interface(), a, func(int) { helped = true })
	if err != nil {
		panic(err) // the grammar is wrong, whatever was typed
	}
	parsed, err := parser.Parse(args)
	if helped {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	flags := g.Elem().FieldByName("Global").Interface().(globals)
	a.json, a.quiet = flags.Output == "json", flags.Quiet
	return parsed, nil
}

// only returns t without the commands that args do not name, on each of its
// levels, or false if args name none. It may take the value of a flag for the
// name of a command: then the parser refuses args.
func only(t reflect.Type, args []string) (reflect.Type, bool) {
	var flags, commands []reflect.StructField
	for f := range t.Fields() {
		if _, is := f.Tag.Lookup("cmd"); is {
			commands = append(commands, f)
		} else {
			flags = append(flags, f)
		}
	}
	if len(commands) == 0 {
		return t, true
	}
	for i, arg := range args {
		at := slices.IndexFunc(commands, func(f reflect.StructField) bool { return isCalled(f, arg) })
		if at < 0 {
			continue
		}
		command := commands[at]
		below, ok := only(command.Type, args[i+1:])
		if !ok {
			return nil, false
		}
		command.Type = below
		return reflect.StructOf(append(flags, command)), true
	}
	return nil, false
}

// isCalled reports whether name is that of a command, or an alias.
func isCalled(command reflect.StructField, name string) bool {
	own := cmp.Or(command.Tag.Get("name"), strings.ToLower(command.Name))
	aliases := strings.FieldsFunc(command.Tag.Get("aliases"), func(r rune) bool { return r == ',' })
	return name == own || slices.Contains(aliases, name)
}

// newParser builds the parser of the grammar that g points to. exit is called
// once help was printed.
func newParser(g any, a *app, exit func(int)) (*kong.Kong, error) {
	return kong.New(g,
		kong.Name("banger"),
		kong.Description(description),
		kong.Writers(a.out, a.err),
		kong.Exit(exit),
		kong.NamedMapper("path", kong.MapperFunc(pathGiven)),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true, WrapUpperBound: 100, NoAppDescFormat: true}),
	)
}

// parseError is a wrong command line, with the help that explains it.
func parseError(err error) error {
	about := "banger"
	var parse *kong.ParseError
	if errors.As(err, &parse) && parse.Context != nil {
		if node := parse.Context.Selected(); node != nil {
			about = node.FullPath()
		}
	}
	message := strings.Replace(err.Error(), ` but got "EOL" (<EOL>)`, ", but none is given", 1)
	return &usageError{message: message, hint: fmt.Sprintf("see %q", about+" --help")}
}
