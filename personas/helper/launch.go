package helper

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"

	"golang.org/x/sys/unix"

	"banger/fc/jail"
	"banger/ops"
)

// launch checks what came, records it, and makes tap, jail and process. After
// an error the caller clears what was made.
func (m *machines) launch(ctx context.Context, r *reservation, call *ops.Call, a ops.VMStartArgs) error {
	uid := m.baseUID + r.rec.Slot
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
	own := disks // what the VMM opens itself
	if a.Snapshot {
		d, err := m.snapshotDisk(disks)
		if err != nil {
			return err
		}
		spec.Disks, own = append(spec.Disks, d), disks[2:]
	}
	r.used = true
	if err := m.table.claim(r, disks); err != nil {
		return err
	}
	r.rec.Start, r.rec.Net, r.rec.Snapshot = call.ID, a.Net, a.Snapshot
	if err := m.table.save(r); err != nil {
		return err
	}

	for i := range own {
		if err := own[i].admit(uid); err != nil {
			return err
		}
		spec.Disks = append(spec.Disks, jail.Disk{File: own[i].File, ReadOnly: own[i].readOnly})
	}
	log, err := os.OpenFile(m.logPath(r), os.O_RDWR|os.O_CREATE|os.O_TRUNC|os.O_APPEND|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return fmt.Errorf("open serial log: %w", err)
	}
	defer log.Close()
	spec.Parent = m.jails
	spec.UID, spec.GID = uid, uid
	spec.OwnerUID, spec.OwnerGID = m.owner.uid, m.owner.gid
	spec.Kernel, spec.Initrd, spec.Log = kernel, initrd, log
	spec.KVM, spec.Shared = true, m.shared
	spec.Limits.MemoryBytes = uint64(a.MemMiB+overheadMiB) << 20
	// The guest's memory is a file, too; a disk is one that must not grow.
	spec.Limits.FileBytes = spec.Limits.MemoryBytes
	for _, d := range own {
		info, err := d.Stat()
		if err != nil {
			return fmt.Errorf("stat disk: %w", err)
		}
		spec.Limits.FileBytes = max(spec.Limits.FileBytes, uint64(info.Size()))
	}
	spec.Limits.CPUs = a.CPUs + 1 // for the VMM's own threads
	// The VMM looks for the tap when the daemon configures it.
	var tapErr error
	var beside sync.WaitGroup
	if tap := m.tap(r); a.Net != ops.NetNone {
		beside.Go(func() { tapErr = m.net.CreateTap(ctx, tap) })
	}
	p, err := m.startVMM(ctx, spec)
	beside.Wait()
	if err == nil {
		r.process.Store(p)
	}
	return errors.Join(err, tapErr)
}

// overheadMiB is what a VMM gets beyond its guest's memory: QEMU's translated code
// is the larger part of what it needs.
const overheadMiB = 512

// vmm returns the part of a jail that depends on the VMM.
func (m *machines) vmm(name, id string) (*jail.Spec, error) {
	spec := &jail.Spec{ID: id}
	// The log is the guest's console: of the VMM it has what went wrong.
	args := []string{"--api-sock", jail.APISocket, "--level", "Warning"}
	if name == ops.Firecracker {
		path, err := jail.Resolve("firecracker", m.firecracker)
		if err != nil {
			return nil, err
		}
		if err := m.programs.check(); err != nil {
			return nil, err
		}
		spec.Binary, spec.Jailer = path, m.jailer
		spec.Args = append([]string{"firecracker"}, args...)
		if spec.Jailer == "" {
			spec.Args = append(spec.Args, "--id", id)
		}
		return spec, nil
	}
	if _, err := jail.Resolve("qemu-system-x86_64", ""); err != nil {
		return nil, err
	}
	spec.Binary, spec.System = m.bangerVMM, true
	spec.Args = append([]string{"banger-vmm", "--id", id}, args...)
	return spec, nil
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
	p := r.process.Load()
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
		reply.Tap, reply.MTU = m.tap(r).Name(), m.net.MTU()
	}
	return reply, files, nil
}
