// Package cli is the command line: its grammar, and what each command does with
// bangerd, the terminal and the files of the user.
//
// The command structs are the documentation: each noun has a file, each command
// a struct with its flags, its help and Run. Results go to standard output,
// everything else to standard error.
package cli

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"

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
}

func (a *app) main(ctx context.Context, args []string) int {
	ctx, a.signals = catchSignals(ctx)
	defer a.signals.stop()
	err := a.run(ctx, args)
	if ctx.Err() != nil {
		err = endedBy(context.Cause(ctx), err)
	}
	a.report(err)
	return exitCode(err)
}

func (a *app) run(ctx context.Context, args []string) error {
	parsed, err := a.parse(args)
	if err != nil || parsed == nil {
		return err
	}
	if err := checkGiven(parsed); err != nil {
		return err
	}
	parsed.BindTo(ctx, (*context.Context)(nil))
	return parsed.Run(a)
}

func (a *app) socket() string {
	if a.config.Socket != "" {
		return a.config.Socket
	}
	return api.SocketPath
}

// newRequestID returns a random id that joins an error with the daemons' logs.
// It is no secret.
func newRequestID() string { return fmt.Sprintf("%012x", rand.Uint64()>>16) }
