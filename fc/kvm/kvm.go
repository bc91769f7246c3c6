// Package kvm finds out whether KVM works on this host by using it: it makes a machine of
// one page, runs a few instructions and measures. That /dev/kvm is there, or even that it
// opens, says little: under some hypervisors the device is there and a guest crawls or dies.
package kvm

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"
)

// Device is where the kernel offers KVM.
const Device = "/dev/kvm"

// State is what KVM is worth here.
type State string

const (
	// Missing means that there is no device.
	Missing State = "missing"
	// NoPermission means that the device is there and the caller may not open it.
	NoPermission State = "no permission"
	// Unusable means that a guest cannot be run, or only so slowly that emulation is better.
	Unusable State = "unusable"
	// Usable means that a guest ran.
	Usable State = "usable"
)

// Report is what a probe found.
type Report struct {
	State State `json:"state"`
	// Reason says what failed; empty when usable.
	Reason string `json:"reason,omitempty"`
	// Setup is the time to make a machine with one CPU.
	Setup time.Duration `json:"setup_ns,omitempty"`
	// Run is the time for spins instructions and exits exits to the host.
	Run time.Duration `json:"run_ns,omitempty"`
}

// String is the report for people, in one line.
func (r Report) String() string {
	if r.State == Usable {
		return fmt.Sprintf("usable (machine made in %v, probe ran in %v)", r.Setup.Round(time.Microsecond), r.Run.Round(time.Microsecond))
	}
	return fmt.Sprintf("%s (%s)", r.State, r.Reason)
}

const (
	// spins is how often the probe's guest goes round a loop of two instructions: some 1 ms
	// on a CPU, and seconds where each instruction is emulated.
	spins = 1 << 20
	// exits is how often it then calls the host: some 1 ms where that works as it should.
	exits = 256
	// tooSlow is far above what any real CPU needs for both, a nested one included.
	tooSlow = 500 * time.Millisecond
)

// Probe uses the device at path, normally Device. It takes some milliseconds where KVM
// works and half a second at most where it does not; ctx may end it sooner.
func Probe(ctx context.Context, path string) Report {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return Report{State: Missing, Reason: fmt.Sprintf("%s does not exist", path)}
	case errors.Is(err, fs.ErrPermission):
		return Report{State: NoPermission, Reason: fmt.Sprintf("%s may not be opened for reading and writing", path)}
	case err != nil:
		// ENODEV and ENXIO: a node without a driver behind it.
		return Report{State: Missing, Reason: err.Error()}
	}
	defer f.Close()
	ctx, cancel := context.WithTimeoutCause(ctx, tooSlow, fmt.Errorf("%d instructions were not done within %v", 2*spins, tooSlow))
	defer cancel()
	var r Report
	start := time.Now()
	m, err := newMachine(int(f.Fd()))
	r.Setup = time.Since(start)
	if err != nil {
		r.State, r.Reason = Unusable, err.Error()
		return r
	}
	defer m.close()
	start = time.Now()
	err = m.run(ctx)
	r.Run = time.Since(start)
	r.State = Usable
	if err != nil {
		r.State, r.Reason = Unusable, err.Error()
	}
	return r
}
