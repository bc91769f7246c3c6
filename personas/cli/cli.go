// Package cli is the command line: its grammar, and what each command does with
// bangerd, the terminal and the files of the user.
//
// The command structs are the documentation: each noun has a file, each command
// a struct with its flags, its help and Run. Results go to standard output,
// everything else to standard error.
package cli

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"

	"github.com/alecthomas/kong"

	"banger/install/doctor"
	"banger/install/inventory"
	"banger/personas/api"
)

// Config is what the command line needs to know of the program around it. The
// zero value works.
type Config struct {
	// Socket is where bangerd is asked. Empty is api.SocketPath, where root
	// also starts it if nobody answers; elsewhere it is never started.
	Socket string

	// Root is where the kernel of this host is looked for. Empty is "/".
	Root string

	// Scope says where the inventory looks besides the usual places.
	Scope inventory.Scope

	// Host is what the doctor looks at, with the probes that only other
	// packages can make. An empty StateDir is found by itself.
	Host doctor.Host
}

// grammar is the whole command line.
type grammar struct {
	Output string `short:"o" enum:"table,json" default:"table" placeholder:"table|json" help:"How results are printed: table or json."`
	Quiet  bool   `short:"q" help:"No progress and no notices; of a list, the names only."`

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

const description = `Real virtual machines from one command.

  sudo banger vm run                               an interactive shell in a fresh VM
  sudo banger vm run --rm -- sh -c 'exit 42'       one command; the VM is gone afterwards

Exit codes: that of the guest's command; 2 for a wrong command line; 125 when banger itself failed; 128+n after signal n.`

// Main runs one command line, without the program's name, and returns the exit
// code. ctx must not end by signals: Main takes SIGINT, SIGTERM and SIGHUP
// itself, because what they mean depends on what goes on.
func Main(ctx context.Context, args []string, config Config) int {
	a := &app{config: config, in: os.Stdin, out: os.Stdout, err: os.Stderr, requestID: newRequestID()}
	return a.main(ctx, args)
}

// app is one run of the command line.
type app struct {
	config    Config
	in        *os.File
	out, err  *os.File
	json      bool
	quiet     bool
	requestID string
	signals   *signals
	parser    *kong.Kong
}

func (a *app) main(ctx context.Context, args []string) int {
	ctx, a.signals = catchSignals(ctx)
	defer a.signals.stop()
	err := a.run(ctx, args)
	if errors.Is(err, context.Canceled) && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	a.report(err)
	return exitCode(err)
}

func (a *app) run(ctx context.Context, args []string) error {
	var g grammar
	helped := false
	parser, err := newParser(&g, a, func(int) { helped = true })
	if err != nil {
		return fmt.Errorf("build grammar: %w", err)
	}
	a.parser = parser
	parsed, err := parser.Parse(args)
	if helped {
		return nil
	}
	if err != nil {
		return parseError(err)
	}
	if err := checkGiven(parsed); err != nil {
		return err
	}
	a.json, a.quiet = g.Output == "json", g.Quiet
	parsed.BindTo(ctx, (*context.Context)(nil))
	return parsed.Run(a)
}

// newParser builds the parser of g. exit is called once help was printed.
func newParser(g *grammar, a *app, exit func(int)) (*kong.Kong, error) {
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
	return &usageError{message: err.Error(), hint: fmt.Sprintf("see %q", about+" --help")}
}

func (a *app) socket() string {
	if a.config.Socket != "" {
		return a.config.Socket
	}
	return api.SocketPath
}

// newRequestID returns a random id that joins an error with the daemons' logs.
func newRequestID() string {
	var b [6]byte
	rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}
