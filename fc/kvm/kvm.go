// Package kvm finds out whether KVM can run guests here, by letting it run one.
//
// That /dev/kvm is there says little: on some hosts, themselves guests of a
// hypervisor without nested virtualization, it opens, makes machines, and then
// runs a stock kernel one emulated instruction at a time, or not at all.
package kvm

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"golang.org/x/sys/unix"
)

// Device is where the kernel offers KVM.
const Device = "/dev/kvm"

// State is what KVM is worth here.
type State string

// The states. Each but Usable is a reason.
const (
	Usable       State = "usable"
	Missing      State = "missing"
	NoPermission State = "no permission"
	Unusable     State = "present but unusable"
)

// Report is what a probe found.
type Report struct {
	State State
	// Detail says in words what was measured, or what failed.
	Detail string
	// MIPS is how many million instructions per second a guest's kernel got, zero
	// if it got nowhere.
	MIPS float64
	// Exit is how long it took the guest to ask the host for something.
	Exit time.Duration
}

// minMIPS is what tells hardware from an instruction emulator in the host's
// kernel, which does one to five; an emulated CPU with virtualization does fifty,
// hardware thousands. What is between emulatorMIPS and minMIPS is in doubt.
const (
	minMIPS      = 10
	emulatorMIPS = 5
)

// Probe makes a machine of one CPU, lets it run a loop in 64-bit kernel mode,
// with the page table changes and exits that a kernel has, and measures. It takes
// some milliseconds, and ends with ctx or after two seconds.
func Probe(ctx context.Context) Report { return probe(ctx, Device) }

func probe(ctx context.Context, device string) Report {
	fd, err := unix.Open(device, unix.O_RDWR|unix.O_CLOEXEC, 0)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ENODEV), errors.Is(err, unix.ENXIO):
		return Report{State: Missing, Detail: fmt.Sprintf("open %s: %v", device, err)}
	case errors.Is(err, fs.ErrPermission):
		return Report{State: NoPermission, Detail: fmt.Sprintf("open %s: %v", device, err)}
	case err != nil:
		return Report{State: Unusable, Detail: fmt.Sprintf("open %s: %v", device, err)}
	}
	defer unix.Close(fd)
	ctx, cancel := context.WithTimeoutCause(ctx, 2*time.Second, errors.New("the guest's loop did not end"))
	defer cancel()
	m, err := newMachine(fd)
	if err != nil {
		return Report{State: Unusable, Detail: err.Error()}
	}
	defer m.close()
	r, err := m.measure(ctx)
	if err != nil {
		r.State, r.Detail = Unusable, err.Error()
		return r
	}
	r.State = Usable
	r.Detail = fmt.Sprintf("a guest runs %.0f million instructions per second, an exit takes %v", r.MIPS, r.Exit.Round(100*time.Nanosecond))
	if r.MIPS < minMIPS {
		r.State = Unusable
		r.Detail += ": instructions are emulated one by one"
	}
	return r
}
