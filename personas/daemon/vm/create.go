package vm

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	storedisk "banger/store/disk"

	"banger/ops"
	"banger/personas/api"
)

// disk is one drive of a VM, in the order in which the guest sees them.
type disk struct {
	name     string
	path     string
	readOnly bool
}

// ownDisk is the path of the VM's own, writable disk file.
func (s *Set) ownDisk(r *Record) string {
	return filepath.Join(s.Records.Path(r.ID), "disk.ext4")
}

// disks lists the drives of a VM.
func (s *Set) disks(r *Record) []disk {
	if r.Backend == api.BackendOverlay {
		return []disk{{"image", r.Image.Path, true}, {"root", s.ownDisk(r), false}}
	}
	return []disk{{"root", s.ownDisk(r), false}}
}

// Create makes a VM from rec, whose Spec, Image, Kernel, VMM and Backend are
// filled in, and starts it where its Spec says so. After an error nothing of it
// is left; what the guest said last is in the error.
func (s *Set) Create(ctx context.Context, rec Record, progress func(api.Event)) (api.VM, error) {
	rec.ID = randomHex(8)
	rec.Name = rec.Spec.Name
	rec.State = api.Creating
	rec.CreatedAt = time.Now().UTC()
	v, err := s.add(rec)
	if err != nil {
		return api.VM{}, err
	}
	defer v.release()
	v.mu.Lock()
	v.held = true
	v.mu.Unlock()
	rec = v.record()

	err = s.make(ctx, v, progress)
	if err == nil && rec.Spec.Start {
		err = s.startLocked(ctx, v, progress)
	} else if err == nil {
		err = s.moveTo(v, api.Stopped, "")
	}
	if err != nil {
		return api.VM{}, errors.Join(err, s.remove(context.WithoutCancel(ctx), v))
	}
	return s.view(v), nil
}

// make reserves at the helper and makes the disk, side by side.
func (s *Set) make(ctx context.Context, v *VM, progress func(api.Event)) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	reserved := make(chan error, 1)
	go func() {
		err := s.reserve(ctx, v)
		if err != nil {
			cancel() // the disk is for nothing
		}
		reserved <- err
	}()
	rec := v.record()
	end := step(progress, "disk")
	err := s.makeDisk(ctx, &rec)
	rerr := <-reserved
	if rerr != nil {
		return rerr
	}
	if err != nil {
		return err
	}
	end()
	return nil
}

// reserve takes a lease. It is in the record before anything uses it; should
// the daemon die in between, Load gives up what no record names.
func (s *Set) reserve(ctx context.Context, v *VM) error {
	rec := v.record()
	ctx = ops.WithRequestID(ctx, "reserve-"+rec.ID+"-"+randomHex(4))
	lease, _, err := ops.VMReserve.Call(ctx, s.Helper, ops.None{})
	if err != nil {
		return err
	}
	v.mu.Lock()
	v.rec.Lease = lease
	v.mu.Unlock()
	return nil
}

// reserveBytes stays free on the host's file system whatever VMs are made.
const reserveBytes = 256 << 20

func (s *Set) makeDisk(ctx context.Context, r *Record) error {
	origin, err := os.Open(r.Image.Path)
	if err != nil {
		return fmt.Errorf("make disk: %w", err)
	}
	defer origin.Close()
	err = storedisk.Create(ctx, storedisk.Spec{
		Backend: storedisk.Backend(r.Backend), Origin: origin, SizeBytes: r.Spec.DiskBytes,
		ReserveBytes: reserveBytes, Volatile: r.Spec.AutoRemove,
	}, s.ownDisk(r))
	if errors.Is(err, storedisk.ErrNoSpace) {
		return &api.Error{Code: api.CodeNoSpace, Message: err.Error(), HintText: "free space in " + filepath.Dir(s.Records.Path(r.ID))}
	}
	return err
}

// remove takes v down to nothing. The caller holds the token. It does as much
// as it can; what it could not do is done when the daemon starts again, because
// the record goes last.
func (s *Set) remove(ctx context.Context, v *VM) error {
	v.mu.Lock()
	if v.rec.State != api.Deleting {
		v.rec.State, v.rec.Reason = api.Deleting, ""
	}
	rec, m := v.rec, v.machine
	v.machine = nil
	v.mu.Unlock()
	if err := s.Records.Save(rec.ID, rec); err != nil {
		s.Log.Warn("record that a VM is deleted, ignoring", "vm", rec.Name, "error", err) // a full disk must not keep it
	}
	if rec.Lease.Handle != "" {
		if _, _, err := ops.VMRelease.Call(ctx, s.Helper, ops.HandleArgs{Handle: rec.Lease.Handle}); err != nil {
			return err
		}
	}
	if m != nil {
		m.close()
	}
	if err := s.Records.Delete(rec.ID); err != nil {
		return err
	}
	s.drop(v)
	return nil
}

// Delete removes a VM. One that runs is refused unless force is set.
func (s *Set) Delete(ctx context.Context, name string, force bool) error {
	v, err := s.find(name)
	if err != nil {
		return err
	}
	if force {
		v.interrupt(errors.New("the VM is being deleted"))
	}
	if err := v.acquire(ctx); err != nil {
		return err
	}
	defer v.release()
	if _, err := s.find(v.record().ID); err != nil {
		return err // somebody else has deleted it meanwhile
	}
	if rec := v.record(); rec.State != api.Stopped && rec.State != api.Deleting && !force {
		return &api.Error{Code: api.CodeConflict, Message: fmt.Sprintf("VM %s is %s", rec.Name, rec.State),
			HintText: "stop it first, or use --force"}
	}
	return s.remove(context.WithoutCancel(ctx), v)
}

// interrupt ends a start that is under way.
func (v *VM) interrupt(cause error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.cancel != nil {
		v.cancel(cause)
	}
}
