package helper

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"

	"golang.org/x/sys/unix"

	"banger/fc/jail"
	"banger/netns"
	"banger/ops"
	"banger/store/disk/cow"
)

// vmUIDs is the first uid and gid of VMs. It lies just above the range that
// systemd gives to containers.
const vmUIDs = 0x70ba0000

// helloPort is the vsock port on which the host waits for a guest that has
// booted. The daemon and the guest agree on it in package link.
const helloPort = 1024

// machines starts and ends VMMs. It is the part of the helper that the
// operations on VMs are bound to.
type machines struct {
	owner   owner
	table   *table
	kernels *kernels
	net     *netns.Namespace
	log     *slog.Logger
	jails   string // folder of the jail directories
	logs    string // folder of the serial logs
	baseUID int    // uid and gid of the VM in slot 0; the others follow

	// startVMM is how a VMM is started: as a child, or by systemd. It is shared
	// where the helper lacks CAP_DAC_OVERRIDE.
	startVMM    func(context.Context, *jail.Spec) (*jail.Process, error)
	shared      bool
	snapshots   func() error                               // tells why startVMM cannot make any
	forget      func(ctx context.Context, id string) error // what startVMM has left; may be nil
	firecracker string                                     // configured path, or empty
	jailer      string                                     // path of what starts that, or empty
	programs    *programs                                  // what the two must be; nil where nothing was recorded
	bangerVMM   string                                     // path of what speaks Firecracker's API over QEMU

	// spare begins a start when a VM is reserved, which is soon to be started. It is
	// nil where systemd starts the VMMs.
	spare *jail.Starter
}

// startAsChildren makes VMMs children of this process, as a standalone helper does. Their
// disks are no snapshots: nothing keeps the host's scanners off those.
func (m *machines) startAsChildren() {
	m.spare = &jail.Starter{}
	m.startVMM = m.spare.Start
	m.snapshots = func() error { return cow.ErrUnguarded }
}

// owner is whom the helper serves.
type owner struct{ uid, gid int }

func (m *machines) start(ctx context.Context, call *ops.Call, a ops.VMStartArgs) (ops.VMStartReply, []*os.File, error) {
	r, err := m.table.lock(ctx, a.Handle)
	if err != nil {
		return ops.VMStartReply{}, nil, err
	}
	defer r.release()
	if err := m.prove(ctx, r); err != nil {
		return ops.VMStartReply{}, nil, err
	}
	if r.runs() {
		if r.rec.Start != call.ID {
			return ops.VMStartReply{}, nil, &ops.Error{Code: ops.Conflict, Message: "the VM runs already"}
		}
		return m.handOut(r)
	}
	if err := m.clear(ctx, r); err != nil { // what a VMM that exited left
		return ops.VMStartReply{}, nil, err
	}
	if err := m.launch(ctx, r, call, a); err != nil {
		return ops.VMStartReply{}, nil, errors.Join(err, m.undo(ctx, r))
	}
	reply, files, err := m.handOut(r)
	if err != nil {
		return reply, nil, errors.Join(err, m.undo(ctx, r))
	}
	return reply, files, nil
}

// policies are the words of package ops in those of netns.
var policies = map[string]netns.Policy{
	ops.NetNone: netns.None, ops.NetInternet: netns.Internet, ops.NetFull: netns.Full,
}

func (m *machines) tap(r *reservation) netns.Tap {
	return netns.Tap{Slot: r.rec.Slot, UID: uint32(m.baseUID + r.rec.Slot), VMID: r.rec.ID, Policy: policies[r.rec.Net]}
}

func (m *machines) seal(ctx context.Context, _ *ops.Call, a ops.HandleArgs) (ops.None, []*os.File, error) {
	r, err := m.lockRunning(ctx, a.Handle)
	if err != nil {
		return ops.None{}, nil, err
	}
	defer r.release()
	return ops.None{}, nil, r.process.Load().Seal()
}

func (m *machines) reconnect(ctx context.Context, _ *ops.Call, a ops.HandleArgs) (ops.VMStartReply, []*os.File, error) {
	r, err := m.lockRunning(ctx, a.Handle)
	if err != nil {
		return ops.VMStartReply{}, nil, err
	}
	defer r.release()
	return m.handOut(r)
}

// lockRunning is lock for a VM that must run.
func (m *machines) lockRunning(ctx context.Context, handle string) (*reservation, error) {
	r, err := m.table.lock(ctx, handle)
	if err != nil {
		return nil, err
	}
	err = m.prove(ctx, r)
	if err == nil && !r.runs() {
		err = &ops.Error{Code: ops.Conflict, Message: "the VM does not run"}
	}
	if err != nil {
		r.release()
		return nil, err
	}
	return r, nil
}

func (m *machines) stop(ctx context.Context, _ *ops.Call, a ops.HandleArgs) (ops.None, []*os.File, error) {
	r, err := m.table.lock(ctx, a.Handle)
	if err != nil {
		return ops.None{}, nil, err
	}
	defer r.release()
	return ops.None{}, nil, m.clear(ctx, r)
}

func (m *machines) release(ctx context.Context, _ *ops.Call, a ops.HandleArgs) (ops.None, []*os.File, error) {
	r, err := m.table.lock(ctx, a.Handle)
	if errors.Is(err, &ops.Error{Code: ops.NotFound}) {
		return ops.None{}, nil, nil
	}
	if err != nil {
		return ops.None{}, nil, err
	}
	defer r.release()
	if err := m.clear(ctx, r); err != nil {
		return ops.None{}, nil, err
	}
	if m.spare != nil {
		m.spare.Relax() // it may be this VM's, which was never started
	}
	if err := os.Remove(m.logPath(r)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return ops.None{}, nil, fmt.Errorf("remove serial log: %w", err)
	}
	return ops.None{}, nil, m.table.forget(r)
}

// running counts VMMs that have not exited, as far as is known.
func (m *machines) running() int {
	n := 0
	for _, r := range m.table.all() {
		if r.mayRun() {
			n++
		}
	}
	return n
}

func exited(p *jail.Process) bool {
	select {
	case <-p.Exited():
		return true
	default:
		return false
	}
}

func dup(f *os.File) (*os.File, error) {
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("duplicate descriptor: %w", err)
	}
	return os.NewFile(uintptr(fd), f.Name()), nil
}
