// Package rig starts the lab's hosts: Debian with systemd as first process,
// with a user who owns banger and one who does not, in one of two tiers.
//
//	          Namespaces                    Machine
//	what      namespaces of this machine    an emulated machine, with SVM
//	ready in  2 to 3 s, native speed        2 s from a saved state, 15 times slower
//	lacks     KVM, device-mapper, limits    speed
//
// Both run the same file system (package tree) and take commands through the
// same agent (package talk). A host begins without anything of banger's, and
// nothing of it is left on the machine when it has ended, however it did.
//
//	          the host                              namespace "server"
//	+---------------------------------------+   +----------------------+
//	| lo            uplink 198.51.100.1/24  +---+ eth0 198.51.100.2/24 |
//	|               uplink 192.168.77.1/24  |   |      192.168.77.2/24 |
//	+---------------------------------------+   +----------------------+
//
// A program that uses it calls [Main] before anything else.
package rig

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"banger/testdata/lab/talk"
	"banger/testdata/lab/tree"
)

// Tier is what a host is made of.
type Tier string

// The tiers.
const (
	Namespaces Tier = "ns"
	Machine    Tier = "host"
)

// Shared is the directory of a host that [Config.Files] are in. All users can
// read them.
const Shared = "/srv/lab"

// The address of the server beyond the uplink.
const Server = "198.51.100.2"

// Config says what a host is to be.
type Config struct {
	Tier Tier
	// Files are what lies in [Shared]: paths on this machine by name.
	Files map[string]string
	// Tell is told what takes long. It may be nil.
	Tell func(string)
}

// Result is what a command did.
type Result struct {
	Stdout, Stderr string
	Code           int // exit code, 128 and the signal's number where one killed it
}

// String tells the result for the message of a failed test.
func (r Result) String() string {
	return fmt.Sprintf("exit code %d\nstdout: %s\nstderr: %s", r.Code, r.Stdout, r.Stderr)
}

// Host is a running host. Its methods are not for many goroutines, save for
// [Host.Run] and [Host.Start].
type Host struct {
	config Config
	dir    string // on this machine; gone at the end
	base   base
	client *talk.Client
	life   context.Context
	end    context.CancelCauseFunc
}

// base is what a host is built on.
type base interface {
	// dial connects to the agent, or to where it will be.
	dial(ctx context.Context) (io.ReadWriteCloser, error)
	// welcome is what a shell of root's is to do first at every boot.
	welcome() string
	// crash ends the host as a power cut does, and starts it again.
	crash() error
	// watch returns when the host cannot go on, or when ctx has ended.
	watch(ctx context.Context) error
	// processors tells what the host's processors are at, as far as that can be seen.
	processors(ctx context.Context) string
	// close ends the host and removes all of it but the directory.
	close() error
}

// patience is how long a boot may take, on a machine that does much else.
const patience = 3 * time.Minute

// Start starts a host and waits until its units are up. The caller closes it.
// It needs root.
func Start(ctx context.Context, config Config) (*Host, error) {
	if config.Tell == nil {
		config.Tell = func(string) {}
	}
	if os.Getuid() != 0 {
		return nil, errors.New("start a lab host: needs root")
	}
	t, err := tree.Open(ctx, config.Tell)
	if err != nil {
		return nil, err
	}
	agent, err := buildAgent(ctx)
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "banger-lab-")
	if err != nil {
		return nil, err
	}
	h := &Host{config: config, dir: dir}
	switch config.Tier {
	case Namespaces:
		h.base, err = startNamespaces(dir, t, agent, config.Files)
	case Machine:
		h.base, err = startMachine(ctx, dir, t, agent, config)
	default:
		err = fmt.Errorf("no such tier: %q", config.Tier)
	}
	if err != nil {
		os.RemoveAll(dir)
		return nil, fmt.Errorf("start a lab host: %w", err)
	}
	h.life, h.end = context.WithCancelCause(context.Background())
	if err := h.greet(ctx, ""); err != nil {
		err = fmt.Errorf("start a lab host: %w%s", err, h.console())
		return nil, errors.Join(err, h.Close())
	}
	go func() { h.end(h.base.watch(h.life)) }()
	return h, nil
}

// Life ends when the host is closed, and before that when it cannot go on: then its
// cause is [ErrStuck].
func (h *Host) Life() context.Context { return h.life }

// Processors tells what the processors of an emulated machine are at, for the log of
// a test that waited in vain.
func (h *Host) Processors() string { return h.base.processors(h.life) }

// Close ends the host.
func (h *Host) Close() error {
	h.end(errors.New("host is closed"))
	if h.client != nil {
		h.client.Close()
	}
	return errors.Join(h.base.close(), os.RemoveAll(h.dir))
}

// greet talks to the agent of a boot other than before, and waits until the
// boot is done.
func (h *Host) greet(ctx context.Context, before string) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		conn, err := h.base.dial(ctx)
		if err != nil {
			return err
		}
		h.client, err = talk.Connect(ctx, conn)
		switch {
		case ctx.Err() != nil:
			return fmt.Errorf("wait for agent: %w", ctx.Err())
		case err == nil && h.client.BootID != before:
			return h.settle(ctx)
		case err == nil:
			h.client.Close()
		}
	}
}

// settle waits until systemd has nothing to do. A failed unit is an error.
func (h *Host) settle(ctx context.Context) error {
	wait := h.base.welcome() + `
systemctl is-system-running --wait || { systemctl list-units --failed --plain --no-legend; exit 1; }`
	r, err := h.Run(ctx, talk.Command{User: "root", Args: []string{"sh", "-c", wait}})
	if err == nil && r.Code != 0 {
		err = fmt.Errorf("host is %s %s", strings.Join(strings.Fields(r.Stdout), " "), r.Stderr)
	}
	return err
}

// Start starts a command.
func (h *Host) Start(cmd talk.Command, streams talk.Streams) (*talk.Process, error) {
	return h.client.Start(cmd, streams)
}

// Run runs a command without input. An error means that its end is not known.
func (h *Host) Run(ctx context.Context, cmd talk.Command) (Result, error) {
	return h.Input(ctx, cmd, nil)
}

// Input is Run with standard input.
func (h *Host) Input(ctx context.Context, cmd talk.Command, stdin io.Reader) (Result, error) {
	var stdout, stderr bytes.Buffer
	p, err := h.Start(cmd, talk.Streams{Stdin: stdin, Stdout: &stdout, Stderr: &stderr})
	if err != nil {
		return Result{}, err
	}
	code, err := p.Wait(ctx)
	if err != nil {
		return Result{}, fmt.Errorf("run %q: %w", cmd.Args, err)
	}
	return Result{Stdout: stdout.String(), Stderr: stderr.String(), Code: code}, nil
}

// Put writes a file of root's.
func (h *Host) Put(ctx context.Context, name string, mode os.FileMode, content io.Reader) error {
	cmd := talk.Command{User: "root", Args: []string{"sh", "-c", `cat >"$1" && chmod "$2" "$1"`, "put", name, fmt.Sprintf("%o", mode)}}
	r, err := h.Input(ctx, cmd, content)
	if err == nil && r.Code != 0 {
		err = errors.New(r.Stderr)
	}
	if err != nil {
		return fmt.Errorf("put %s: %w", name, err)
	}
	return nil
}

// Reboot runs a command of root's that reboots the host, "systemctl reboot" if
// none is given, and waits until the host is up again.
func (h *Host) Reboot(ctx context.Context, command ...string) error {
	if len(command) == 0 {
		command = []string{"systemctl", "reboot"}
	}
	before := h.client.BootID
	p, err := h.Start(talk.Command{User: "root", Args: command}, talk.Streams{})
	if err != nil {
		return err
	}
	soon, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	// Of a host that goes down the command may be killed before it has ended.
	killed := []int{128 + int(syscall.SIGTERM), 128 + int(syscall.SIGKILL)}
	if code, err := p.Wait(soon); err == nil && code != 0 && !slices.Contains(killed, code) {
		return fmt.Errorf("reboot host: %q: exit code %d", command, code)
	}
	h.client.Close()
	if err := h.greet(ctx, before); err != nil {
		return fmt.Errorf("reboot host: %w%s", err, h.console())
	}
	return nil
}

// Crash ends the host as a power cut does, and waits until it is up again.
func (h *Host) Crash(ctx context.Context) error {
	before := h.client.BootID
	if err := h.base.crash(); err != nil {
		return fmt.Errorf("crash host: %w", err)
	}
	h.client.Close()
	if err := h.greet(ctx, before); err != nil {
		return fmt.Errorf("crash host: %w%s", err, h.console())
	}
	return nil
}

// consoleFile is what the host's first process and kernel print, in its directory.
const consoleFile = "console"

// console returns the last lines of the host's console, for an error.
func (h *Host) console() string {
	b, err := os.ReadFile(filepath.Join(h.dir, consoleFile))
	if err != nil || len(b) == 0 {
		return ""
	}
	return "\nconsole: " + string(b[max(0, len(b)-2000):])
}

// buildAgent builds what runs commands on hosts, into the cache, and returns
// its path.
func buildAgent(ctx context.Context) (string, error) {
	cache, err := tree.Cache()
	if err != nil {
		return "", err
	}
	file := filepath.Join(cache, "lab", "agent")
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-buildvcs=false", "-ldflags", "-s -w", "-o", file, "banger/testdata/lab/agent")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build agent: %w: %s", err, out)
	}
	return file, nil
}
