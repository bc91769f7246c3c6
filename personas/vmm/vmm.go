// Package vmm is the role banger-vmm: it takes Firecracker's command line, serves
// Firecracker's API, and drives a QEMU microvm where Firecracker would drive KVM. It is
// for hosts where KVM is missing or unusable; who talks to it need not know the difference.
//
//	daemon ---- API socket ----> server ----> machine ---- QMP ----> qemu
//	            vsock socket --> vsock device --- vhost-user -------> qemu
//	            tap, disks, kernel: opened here, given as descriptors
//
// It runs as the VM's own uid in an empty jail and needs no privilege there. QEMU is its
// child, in QEMU's own seccomp sandbox, and never outlives it.
package vmm

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"

	"banger/fc/server"
	"banger/personas"
)

// Exit codes, which are Firecracker's.
const (
	exitOK               = 0
	exitError            = 1
	exitBadConfiguration = 152
	exitBadArguments     = 153
	// exitTerminated is what a shell sees of a process that SIGTERM ended. The first
	// process of a pid namespace cannot die of the signal itself.
	exitTerminated = 128 + 15
)

const (
	// appName is what the API says is running.
	appName = "banger-vmm"
	// apiVersion is the Firecracker whose API this is.
	apiVersion = "1.14.4"
	// maxConfigFile bounds --config-file in bytes.
	maxConfigFile = 1 << 20
)

// Main runs the role with the arguments that follow its name, until the guest ends or ctx
// does, and returns the exit code. It exits with 0 when the guest shut down or rebooted.
func Main(ctx context.Context, args []string) int {
	clock := startTSCClock()
	personas.SetName(appName)
	flags, err := parseFlags(args)
	if err != nil {
		fmt.Fprintf(os.Stderr, "Error: Arguments parsing error: %v\n\nFor more information try --help.\n", err)
		return exitBadArguments
	}
	switch {
	case flags.help:
		fmt.Print(usage())
		return exitOK
	case flags.version:
		fmt.Printf("Firecracker v%s\n\n%s %s\n", apiVersion, appName, personas.Version)
		return exitOK
	}
	log, err := newLogger(flags)
	if err != nil {
		fmt.Fprintf(os.Stderr, "Error: Could not initialize logger: %v\n", err)
		return exitError
	}
	for _, name := range flags.ignored {
		log.Warn("flag has no effect here", "flag", name)
	}
	code, err := run(ctx, flags, log, clock)
	if err != nil {
		fmt.Fprintf(os.Stderr, "Error: %v\n", err)
		log.Error("exiting with error", "exit_code", code, "error", err)
		return code
	}
	log.Info("exiting", "exit_code", code)
	return code
}

// run serves the API, boots what a file or the API says, and waits for the end.
func run(ctx context.Context, flags flags, log *logger, clock *tscClock) (code int, err error) {
	m := newMachine(flags.id, log, clock)
	defer m.close()
	if flags.metricsPath != "" {
		if err := m.metrics.open(flags.metricsPath); err != nil {
			return exitError, fmt.Errorf("Could not initialize metrics: %w", err)
		}
	}
	s := server.New(server.Config{
		Machine: m, ID: flags.id, AppName: appName, Version: apiVersion, Observe: m.observe,
	})
	ctx, cancel := context.WithCancel(ctx)
	var serving sync.WaitGroup
	defer serving.Wait()
	defer cancel()
	served := make(chan error, 1)
	if !flags.noAPI {
		l, err := net.Listen("unix", flags.apiSock)
		if err != nil {
			return exitError, fmt.Errorf("Failed to open the API socket at: %s. Check that it is not already used: %w", flags.apiSock, err)
		}
		log.Info("listening on API socket", "path", flags.apiSock)
		serving.Go(func() { served <- s.Serve(ctx, l) })
	}
	if flags.configFile != "" {
		if err := load(ctx, s, flags.configFile); err != nil {
			return exitBadConfiguration, fmt.Errorf("Failed to build MicroVM from Json: %w", err)
		}
	}
	select {
	case err := <-m.ended:
		if err != nil {
			return exitError, err
		}
		return exitOK, nil
	case err := <-served:
		if err != nil {
			return exitError, err
		}
	case <-ctx.Done():
	}
	return exitTerminated, errors.New("terminated")
}

func load(ctx context.Context, s *server.Server, path string) error {
	file, err := readBounded(path, maxConfigFile)
	if err != nil {
		return err
	}
	return s.Load(ctx, file)
}
