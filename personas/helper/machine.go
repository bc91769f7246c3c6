package helper

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"banger/fc/jail"
	"banger/netns"
	"banger/ops"
)

// baseUID is the uid and gid of the VM in slot 0; the others follow. It lies
// just above the range that systemd gives to containers.
const baseUID = 0x70ba0000

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
	jails   string // folder of the jail directories
	logs    string // folder of the serial logs
}

// owner is whom the helper serves.
type owner struct{ uid, gid int }

func (m *machines) start(ctx context.Context, call *ops.Call, a ops.VMStartArgs) (ops.VMStartReply, []*os.File, error) {
	r, err := m.table.lock(a.Handle)
	if err != nil {
		return ops.VMStartReply{}, nil, err
	}
	defer r.mu.Unlock()
	if r.process != nil && !exited(r.process) {
		if r.rec.Start != call.ID {
			return ops.VMStartReply{}, nil, &ops.Error{Code: ops.Conflict, Message: "the VM runs already"}
		}
		return m.handOut(r)
	}
	if err := m.clear(ctx, r); err != nil { // what a VMM that exited left
		return ops.VMStartReply{}, nil, err
	}
	if err := m.launch(ctx, r, call, a); err != nil {
		return ops.VMStartReply{}, nil, errors.Join(err, m.clear(context.WithoutCancel(ctx), r))
	}
	reply, files, err := m.handOut(r)
	if err != nil {
		return reply, nil, errors.Join(err, m.clear(context.WithoutCancel(ctx), r))
	}
	return reply, files, nil
}

// launch checks what came, records it, and makes tap, jail and process. After
// an error the caller clears what was made.
func (m *machines) launch(ctx context.Context, r *reservation, call *ops.Call, a ops.VMStartArgs) error {
	uid := baseUID + r.rec.Slot
	disks := make([]file, len(call.Files))
	for i, f := range call.Files {
		d, err := checkDisk(f, m.owner.uid)
		if err != nil {
			return err
		}
		disks[i] = d
	}
	kernel, err := m.kernels.open(a.Kernel)
	if err != nil {
		return err
	}
	defer kernel.Close()
	initrd, err := m.kernels.open(a.Initrd)
	if err != nil {
		return err
	}
	defer initrd.Close()
	spec, err := m.vmm(a.VMM, r.rec.ID)
	if err != nil {
		return err
	}
	if err := m.table.claim(r, disks); err != nil {
		return err
	}
	r.rec.Start, r.rec.Net = call.ID, a.Net
	if err := m.table.save(r); err != nil {
		return err
	}

	for i := range disks {
		if err := disks[i].admit(uid); err != nil {
			return err
		}
		spec.Disks = append(spec.Disks, jail.Disk{File: disks[i].File, ReadOnly: disks[i].readOnly})
	}
	log, err := os.OpenFile(m.logPath(r), os.O_RDWR|os.O_CREATE|os.O_TRUNC|os.O_APPEND|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return fmt.Errorf("open serial log: %w", err)
	}
	defer log.Close()
	if a.Net != ops.NetNone {
		if err := m.net.CreateTap(ctx, m.tap(r)); err != nil {
			return err
		}
	}
	spec.Parent = m.jails
	spec.UID, spec.GID = uid, uid
	spec.OwnerUID, spec.OwnerGID = m.owner.uid, m.owner.gid
	spec.Kernel, spec.Initrd, spec.Log = kernel, initrd, log
	spec.KVM = true
	r.process, err = jail.Start(ctx, spec)
	return err
}

// vmm returns the part of a jail that depends on the VMM.
func (m *machines) vmm(name, id string) (*jail.Spec, error) {
	spec := &jail.Spec{ID: id}
	if name == ops.Firecracker {
		path, err := jail.Resolve("firecracker", "")
		if err != nil {
			return nil, err
		}
		spec.Binary = path
		spec.Args = []string{"firecracker", "--api-sock", jail.APISocket, "--id", id}
		return spec, nil
	}
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find own binary: %w", err)
	}
	if _, err := jail.Resolve("qemu-system-x86_64", ""); err != nil {
		return nil, err
	}
	spec.Binary, spec.System = self, true
	spec.Args = []string{"banger-vmm", "--api-sock", jail.APISocket, "--id", id}
	return spec, nil
}

// policies are the words of package ops in those of netns.
var policies = map[string]netns.Policy{
	ops.NetNone: netns.None, ops.NetInternet: netns.Internet, ops.NetFull: netns.Full,
}

func (m *machines) tap(r *reservation) netns.Tap {
	return netns.Tap{Slot: r.rec.Slot, UID: uint32(baseUID + r.rec.Slot), VMID: r.rec.ID, Policy: policies[r.rec.Net]}
}

func (m *machines) logPath(r *reservation) string {
	return filepath.Join(m.logs, r.rec.ID+".log")
}

// handOut opens the descriptors of a running VM for the daemon.
func (m *machines) handOut(r *reservation) (reply ops.VMStartReply, files []*os.File, err error) {
	defer func() {
		if err != nil {
			for _, f := range files {
				f.Close()
			}
			files = nil
		}
	}()
	p := r.process
	for _, open := range []func() (*os.File, error){
		p.DialAPI,
		func() (*os.File, error) { return dup(p.Pidfd()) },
		func() (*os.File, error) { return p.Listen(helloPort) },
		func() (*os.File, error) { return dup(p.RunDir()) },
		func() (*os.File, error) { return os.OpenFile(m.logPath(r), os.O_RDONLY|unix.O_NOFOLLOW, 0) },
	} {
		f, err := open()
		if err != nil {
			return reply, files, fmt.Errorf("hand out VM: %w", err)
		}
		files = append(files, f)
	}
	reply.PID = p.PID()
	if r.rec.Net != ops.NetNone {
		reply.Tap = m.tap(r).Name()
	}
	return reply, files, nil
}

func (m *machines) reconnect(_ context.Context, _ *ops.Call, a ops.HandleArgs) (ops.VMStartReply, []*os.File, error) {
	r, err := m.table.lock(a.Handle)
	if err != nil {
		return ops.VMStartReply{}, nil, err
	}
	defer r.mu.Unlock()
	if r.process == nil || exited(r.process) {
		return ops.VMStartReply{}, nil, &ops.Error{Code: ops.Conflict, Message: "the VM does not run"}
	}
	return m.handOut(r)
}

func (m *machines) stop(ctx context.Context, _ *ops.Call, a ops.HandleArgs) (ops.None, []*os.File, error) {
	r, err := m.table.lock(a.Handle)
	if err != nil {
		return ops.None{}, nil, err
	}
	defer r.mu.Unlock()
	return ops.None{}, nil, m.clear(ctx, r)
}

func (m *machines) release(ctx context.Context, _ *ops.Call, a ops.HandleArgs) (ops.None, []*os.File, error) {
	r, err := m.table.lock(a.Handle)
	if errors.Is(err, &ops.Error{Code: ops.NotFound}) {
		return ops.None{}, nil, nil
	}
	if err != nil {
		return ops.None{}, nil, err
	}
	defer r.mu.Unlock()
	if err := m.clear(ctx, r); err != nil {
		return ops.None{}, nil, err
	}
	if err := os.Remove(m.logPath(r)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return ops.None{}, nil, fmt.Errorf("remove serial log: %w", err)
	}
	return ops.None{}, nil, m.table.forget(r)
}

func (m *machines) policy(ctx context.Context, _ *ops.Call, a ops.NetPolicyArgs) (ops.None, []*os.File, error) {
	r, err := m.table.lock(a.Handle)
	if err != nil {
		return ops.None{}, nil, err
	}
	defer r.mu.Unlock()
	if r.process == nil || r.rec.Net == ops.NetNone || a.Net == ops.NetNone {
		return ops.None{}, nil, &ops.Error{Code: ops.Conflict, Message: "the VM does not run, or has no network device"}
	}
	r.rec.Net = a.Net
	if err := m.table.save(r); err != nil {
		return ops.None{}, nil, err
	}
	return ops.None{}, nil, m.net.SetPolicy(ctx, r.rec.Slot, policies[a.Net])
}

// clear kills the VMM of r, whose mu the caller holds, and removes its jail and
// tap. Its disks are free afterwards, and not before the process is gone. It
// does as much as it can and joins what went wrong.
func (m *machines) clear(ctx context.Context, r *reservation) error {
	var errs []error
	if p := r.process; p != nil {
		errs = append(errs, p.Kill())
		if _, err := p.Wait(ctx); err != nil {
			return errors.Join(append(errs, fmt.Errorf("wait for killed VMM: %w", err))...)
		}
		if err := p.Release(); err != nil {
			return errors.Join(append(errs, err)...)
		}
		r.process = nil
	}
	errs = append(errs, m.net.RemoveTap(ctx, r.rec.Slot))
	m.table.unclaim(r)
	return errors.Join(append(errs, m.table.save(r))...)
}

// adopt finds the VMMs that an earlier helper had started, and removes what is
// left of those that are gone.
func (m *machines) adopt(ctx context.Context) error {
	paths, err := jail.List(m.jails)
	if err != nil {
		return err
	}
	var errs []error
	for _, path := range paths {
		r := m.ownerOf(filepath.Base(path))
		p, err := jail.Adopt(ctx, path)
		switch {
		case errors.Is(err, jail.ErrGone):
			errs = append(errs, jail.Remove(ctx, path))
		case err != nil:
			errs = append(errs, err)
		case r == nil: // nobody can ask for it any more
			errs = append(errs, p.Kill())
			if _, err := p.Wait(ctx); err == nil {
				errs = append(errs, p.Release())
			}
		default:
			r.process = p
		}
	}
	for _, r := range m.table.all() {
		if r.process == nil {
			r.mu.Lock()
			errs = append(errs, m.clear(ctx, r))
			r.mu.Unlock()
		}
	}
	return errors.Join(errs...)
}

// ownerOf returns the reservation that a jail directory was made for: its name
// begins with the VM's id.
func (m *machines) ownerOf(name string) *reservation {
	for _, r := range m.table.all() {
		if len(name) > len(r.rec.ID) && name[:len(r.rec.ID)] == r.rec.ID {
			return r
		}
	}
	return nil
}

// running counts VMMs that have not exited.
func (m *machines) running() int {
	n := 0
	for _, r := range m.table.all() {
		r.mu.Lock()
		if r.process != nil && !exited(r.process) {
			n++
		}
		r.mu.Unlock()
	}
	return n
}

// maxLog bounds a serial log, in bytes. What a guest writes beyond is thrown
// away together with what it wrote before.
const maxLog = 8 << 20

// trimLogs empties the serial logs that have grown too large. The VMMs write
// for appending, so that an emptied file begins anew.
func (m *machines) trimLogs() error {
	var errs []error
	for _, r := range m.table.all() {
		info, err := os.Lstat(m.logPath(r))
		if err != nil || info.Size() <= maxLog {
			continue
		}
		errs = append(errs, os.Truncate(m.logPath(r), 0))
	}
	return errors.Join(errs...)
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
