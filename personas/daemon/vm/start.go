package vm

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"banger/ops"
	"banger/personas/api"
)

// Start starts a stopped VM.
func (s *Set) Start(ctx context.Context, name string, progress func(api.Event)) (api.VM, error) {
	return s.operate(ctx, name, func(ctx context.Context, v *VM) error {
		if v.record().State == api.Running {
			_, err := v.running() // it may be recorded so and not be connected
			return err
		}
		return s.startLocked(ctx, v, progress)
	})
}

// startLocked starts v, whose token the caller holds. After an error the VM is
// stopped.
func (s *Set) startLocked(ctx context.Context, v *VM, progress func(api.Event)) error {
	if err := s.update(v, s.Records.Note, moveTo(api.Starting, "")); err != nil {
		return err
	}
	m, err := s.launch(ctx, v, progress)
	if err == nil {
		write := s.Records.Note
		if v.record().StartedAt.IsZero() {
			write = s.Records.Save
		}
		err = s.update(v, write, func(r *Record) error {
			r.StartedAt = time.Now().UTC()
			return r.transition(api.Running, "")
		})
	}
	if err != nil {
		err = s.explain(v, m, reasonOf(ctx, err))
		return errors.Join(err, s.halt(context.WithoutCancel(ctx), v, m, startReason(err)))
	}
	s.tasks.Go(func() { s.watch(v, m) })
	return nil
}

// launch starts the VMM and brings the guest up. It returns the machine also
// beside an error, if there is one already.
func (s *Set) launch(ctx context.Context, v *VM, progress func(api.Event)) (*machine, error) {
	rec := v.record()
	if rec.Emulated {
		progress(api.Event{Notice: "this VM is emulated, because KVM cannot be used here: it works, slowly (see \"banger doctor\")"})
	}
	given, err := s.given(&rec, progress)
	if err != nil {
		return nil, err
	}
	var limit time.Duration
	if rec.Emulated {
		limit = cmp.Or(s.SilentTime, silentTime)
	}
	m, err := s.bringUp(ctx, v, given, limit, progress)
	if !errors.Is(err, errSilent) {
		return m, err
	}
	s.Log.Warn("emulated guest hangs before its first word, starting it again", "vm", rec.Name, "silent", limit)
	progress(api.Event{Notice: fmt.Sprintf("the emulated guest said nothing for %v: it is started again", limit)})
	if err := s.stopVMM(context.WithoutCancel(ctx), v, m); err != nil {
		return m, err
	}
	return s.bringUp(ctx, v, given, 0, progress)
}

// bringUp is one try of launch. It ends with errSilent if limit is not 0 and the
// guest has said nothing by then.
func (s *Set) bringUp(ctx context.Context, v *VM, given given, limit time.Duration, progress func(api.Event)) (*machine, error) {
	rec := v.record()
	end := api.Begin(progress, "vmm")
	boot, err := s.BootFiles(ctx, rec.Kernel, rec.VMM)
	if err != nil {
		return nil, err
	}
	disks := s.disks(&rec, boot)
	reply, files, err := s.startVMM(ctx, v, boot, disks)
	if err != nil {
		return nil, err
	}
	m, err := newMachine(files)
	if err != nil {
		return nil, err
	}
	m.mtu = reply.MTU
	v.setMachine(m)  // its log can be read from now on
	rec = v.record() // with the lease that startVMM may have renewed
	if err := m.configure(ctx, cmp.Or(s.ConfigureTime, configureTimeout), &rec, disks, reply.Tap); err != nil {
		return m, err
	}
	// Nothing of the image runs before boot tells the guest to. The VMM has its sockets; of
	// one that is gone already boot knows more to tell.
	_, _, err = ops.VMSeal.Call(ctx, s.Helper, ops.HandleArgs{Handle: rec.Lease.Handle})
	if err != nil && !errors.Is(err, &ops.Error{Code: ops.Conflict}) {
		return m, err
	}
	v.change(func() { v.rec.PID = reply.PID })
	end()
	return m, m.boot(ctx, limit, &rec, disks, given, progress)
}

// startVMM asks the helper for a VMM, and gives it first what it turns out not
// to have: a lease, after a reboot of the host, or the kernel and its initrd.
func (s *Set) startVMM(ctx context.Context, v *VM, boot Boot, disks []disk) (ops.VMStartReply, []*os.File, error) {
	rec := v.record()
	files, err := openDisks(ctx, v, disks)
	if err != nil {
		return ops.VMStartReply{}, nil, err
	}
	defer closeAll(files)
	for try := 0; ; try++ {
		args := ops.VMStartArgs{
			Handle: v.record().Lease.Handle, Kernel: boot.KernelSHA256, Initrd: boot.InitrdSHA256,
			VMM: vmmWord(rec.VMM), Net: string(rec.Spec.Net), MemMiB: rec.Spec.MemMiB, CPUs: rec.Spec.CPUs,
			Snapshot: rec.Backend == api.BackendSnapshot,
		}
		if args.Handle != "" {
			id := ops.WithRequestID(ctx, "start-"+rec.ID+"-"+randomHex(4))
			reply, got, err := ops.VMStart.Call(id, s.Helper, args, files...)
			if !errors.Is(err, &ops.Error{Code: ops.NotFound}) || try == 2 {
				return reply, got, err
			}
		}
		if err := s.provide(ctx, v, boot); err != nil {
			return ops.VMStartReply{}, nil, err
		}
	}
}

// provide gives the helper what VMStart did not find.
func (s *Set) provide(ctx context.Context, v *VM, boot Boot) error {
	held, err := s.held(ctx)
	if err != nil {
		return err
	}
	if _, ok := held[v.record().Lease.Handle]; !ok {
		if err := s.reserve(ctx, v); err != nil {
			return err
		}
		if err := s.Records.Note(v.record().ID, v.record()); err != nil {
			return err
		}
	}
	if err := s.putKernel(ctx, boot.KernelSHA256, boot.Kernel); err != nil {
		return err
	}
	return s.putKernel(ctx, boot.InitrdSHA256, boot.Initrd)
}

func (s *Set) putKernel(ctx context.Context, digest, path string) error {
	args := ops.KernelPutArgs{Digest: digest}
	reply, _, err := ops.KernelPut.Call(ctx, s.Helper, args)
	if err != nil || reply.Have {
		return err
	}
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("give kernel to helper: %w", err)
	}
	defer f.Close()
	_, _, err = ops.KernelPut.Call(ctx, s.Helper, args, f)
	return err
}

func vmmWord(v api.VMM) string {
	if v == api.VMMFirecracker {
		return ops.Firecracker
	}
	return ops.QEMU
}

// explain adds the end of the serial console to an error of a guest that did
// not come up: it is the only witness.
func (s *Set) explain(v *VM, m *machine, err error) error {
	if m == nil || errors.Is(err, context.Canceled) {
		return err
	}
	e := &api.Error{Code: api.CodeInternal, Message: fmt.Sprintf("start VM %s: %v", v.record().Name, err)}
	var known *api.Error
	if errors.As(err, &known) {
		e.Code = known.Code
	} else if errors.Is(err, context.DeadlineExceeded) {
		e.Code = api.CodeTimeout
	}
	const lines, limit = 12, 4096
	if tail, terr := m.serialTail(limit); terr == nil && len(tail) > 0 {
		all := strings.Split(strings.TrimSpace(string(tail)), "\n")
		e.HintText = "the guest's last words:\n" + strings.Join(all[max(0, len(all)-lines):], "\n")
	}
	return e
}

// halt stops the VMM of v and records the VM as stopped. The caller holds the token.
func (s *Set) halt(ctx context.Context, v *VM, m *machine, reason string) error {
	if err := s.stopVMM(ctx, v, m); err != nil {
		return err // it may still run: the record must not say otherwise
	}
	rec := v.record()
	if err := s.closeDisk(&rec); err != nil {
		s.Log.Warn("close disk to the VM's group, ignoring", "vm", rec.Name, "error", err)
	}
	return s.moveDown(v, func(r *Record) error {
		r.PID = 0
		return r.transition(api.Stopped, reason)
	})
}

// stopVMM makes sure that the VMM of v is gone, and keeps its serial log.
func (s *Set) stopVMM(ctx context.Context, v *VM, m *machine) error {
	rec := v.record()
	var err error
	if rec.Lease.Handle != "" {
		_, _, err = ops.VMStop.Call(ctx, s.Helper, ops.HandleArgs{Handle: rec.Lease.Handle})
		if errors.Is(err, &ops.Error{Code: ops.NotFound}) {
			err = nil
		}
	}
	if m != nil {
		if kerr := s.keepLog(&rec, m); kerr != nil {
			s.Log.Warn("keep serial log, ignoring", "vm", rec.Name, "error", kerr)
		}
		v.setMachine(nil)
		m.close()
	}
	return err
}

// closeDisk takes back what the helper gave to the VM's group for its run.
func (s *Set) closeDisk(r *Record) error {
	err := os.Chmod(s.ownDisk(r), 0o600)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}

// keptLog bounds the part of a serial log that outlives its VMM, in bytes.
const keptLog = 1 << 20

func (s *Set) logPath(r *Record) string { return filepath.Join(s.Records.Path(r.ID), "serial.log") }

func (s *Set) keepLog(r *Record, m *machine) error {
	tail, err := m.serialTail(keptLog)
	if err != nil {
		return err
	}
	return os.WriteFile(s.logPath(r), tail, 0o600)
}
