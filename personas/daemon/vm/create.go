package vm

import (
	"context"
	"errors"
	"fmt"
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
	snapshot bool // path is the store of one, over the VM's image
}

// ownDisk is the path of the VM's own, writable disk file.
func (s *Set) ownDisk(r *Record) string {
	return filepath.Join(s.Records.Path(r.ID), "disk.ext4")
}

// disks lists the drives of a VM that boots b. The modules come last: the guest
// finds the others by their place.
func (s *Set) disks(r *Record, b Boot) []disk {
	list := []disk{{name: "root", path: s.ownDisk(r), snapshot: r.Backend == api.BackendSnapshot}}
	if r.Backend == api.BackendOverlay {
		list = []disk{{name: imageDrive, path: r.Image.Path, readOnly: true}, list[0]}
	}
	if b.Modules != "" {
		list = append(list, disk{name: modulesDrive, path: b.Modules, readOnly: true})
	}
	return list
}

// Names of drives that others ask for: the image where the VM shares it, and the
// kernel's modules.
const (
	imageDrive   = "image"
	modulesDrive = "modules"
)

// device is the name that the guest's kernel gives to the drive called name, or
// nothing where there is no such drive.
func device(disks []disk, name string) string {
	for i, d := range disks {
		if d.name == name {
			return "vd" + string(rune('a'+i))
		}
	}
	return ""
}

// Create makes a VM from rec, whose Spec, Image, Kernel, VMM and Backend are
// filled in, and starts it where its Spec says so. After an error nothing of it
// is left; what the guest said last is in the error.
func (s *Set) Create(ctx context.Context, rec Record, progress func(api.Event)) (api.VM, error) {
	if err := s.Reconcile(ctx); err != nil {
		return api.VM{}, err
	}
	rec.ID = randomHex(8)
	rec.Name = rec.Spec.Name
	rec.State = api.Creating
	rec.CreatedAt = time.Now().UTC()
	v, err := s.add(rec)
	if err != nil {
		return api.VM{}, err
	}
	defer v.release()
	ctx, done := v.work(ctx)
	defer done()

	err = s.make(ctx, v, progress)
	if err == nil && rec.Spec.Start {
		err = s.startLocked(ctx, v, progress)
	} else if err == nil {
		err = s.update(v, s.Records.Save, moveTo(api.Stopped, ""))
	}
	if err == nil {
		err = context.Cause(ctx) // nobody waits for it any more, or somebody deletes it
	}
	if err != nil {
		return api.VM{}, errors.Join(reasonOf(ctx, err), s.remove(context.WithoutCancel(ctx), v))
	}
	if rec.Spec.AutoRemove {
		s.awaitHolder(v)
	}
	return s.view(v), nil
}

// reasonOf returns why ctx has ended, where it has, instead of the error that
// came of it.
func reasonOf(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	return err
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
	end := api.Begin(progress, "disk")
	err := s.makeDisk(ctx, v, &rec)
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

// reserve takes a lease. The caller notes it before anything uses it; should
// the daemon die in between, Reconcile gives up what no record names.
func (s *Set) reserve(ctx context.Context, v *VM) error {
	s.leasing.RLock()
	defer s.leasing.RUnlock()
	rec := v.record()
	// Once asked, the answer is waited for: it is the only name of what was
	// reserved. It comes in a moment.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), reserveTimeout)
	defer cancel()
	ctx = ops.WithRequestID(ctx, "reserve-"+rec.ID+"-"+randomHex(4))
	lease, _, err := ops.VMReserve.Call(ctx, s.Helper, ops.None{})
	if err != nil {
		return err
	}
	v.change(func() { v.rec.Lease = lease })
	return nil
}

// reserveTimeout bounds the wait for a lease.
const reserveTimeout = 10 * time.Second

// reserveBytes stays free on the host's file system whatever VMs are made.
const reserveBytes = 256 << 20

func (s *Set) makeDisk(ctx context.Context, v *VM, r *Record) error {
	origin, err := openImage(ctx, v)
	if err != nil {
		return fmt.Errorf("make disk: %w", err)
	}
	defer origin.Close()
	spec := storedisk.Spec{
		Backend: storedisk.Backend(r.Backend), Origin: origin, SizeBytes: r.Spec.DiskBytes,
		ReserveBytes: reserveBytes, Volatile: r.Spec.AutoRemove,
	}
	err = storedisk.Create(ctx, spec, s.ownDisk(r))
	if errors.Is(err, storedisk.ErrNoSpace) {
		s.awaitClearing()
		err = storedisk.Create(ctx, spec, s.ownDisk(r))
	}
	if errors.Is(err, storedisk.ErrNoSpace) {
		hint := "free space in " + filepath.Dir(s.Records.Path(r.ID))
		if r.Backend == api.BackendSnapshot {
			hint += ", or use --backend overlay, which takes room when the guest writes"
		}
		return &api.Error{Code: api.CodeNoSpace, Message: err.Error(), HintText: hint}
	}
	return err
}

// remove takes v down to nothing. The caller holds the token. It does as much
// as it can; what it could not do is done by the next Delete, or when the daemon
// starts again, because the record goes last.
func (s *Set) remove(ctx context.Context, v *VM) error {
	rec := v.record()
	if err := rec.transition(api.Deleting, ""); err != nil {
		return err
	}
	if err := s.Records.Note(rec.ID, rec); err != nil {
		s.Log.Warn("record that a VM is deleted, ignoring", "vm", rec.Name, "error", err) // a full disk must not keep it
	}
	var m *machine
	v.change(func() { v.rec, m, v.machine = rec, v.machine, nil })
	if m != nil {
		m.close()
	}
	if rec.Lease.Handle != "" {
		if _, _, err := ops.VMRelease.Call(ctx, s.Helper, ops.HandleArgs{Handle: rec.Lease.Handle}); err != nil {
			return err
		}
	}
	clear, err := s.Records.Bury(rec.ID)
	if err != nil {
		return err
	}
	s.drop(v)
	// To free the blocks of a disk takes as long as it is large, and nobody waits for
	// that but who has no room without them.
	s.clearing.RLock()
	s.tasks.Go(func() {
		defer s.clearing.RUnlock()
		if err := clear(); err != nil {
			s.Log.Error("clear away the disk of a deleted VM", "vm", rec.Name, "error", err)
		}
	})
	return nil
}

// awaitClearing returns when all that was deleted before is cleared away.
func (s *Set) awaitClearing() {
	s.clearing.Lock()
	defer s.clearing.Unlock()
}

// Delete removes a VM. One that runs is refused unless force is set.
func (s *Set) Delete(ctx context.Context, name string, force bool) error {
	take := s.take
	if force {
		if gone, err := s.giveUp(ctx, name); gone || err != nil {
			return err
		}
		take = func(ctx context.Context, name string) (*VM, error) {
			return s.seize(ctx, name, interruption("the VM is being deleted"))
		}
	}
	v, err := take(ctx, name)
	if err != nil {
		return err
	}
	defer v.release()
	if rec := v.record(); rec.State != api.Stopped && rec.State != api.Deleting && !force {
		return &api.Error{Code: api.CodeConflict, Message: fmt.Sprintf("VM %s is %s", rec.Name, rec.State),
			HintText: "stop it first, or use --force"}
	}
	return s.remove(context.WithoutCancel(ctx), v)
}

// giveUp deletes a VM whose record is damaged, and reports whether there was
// one. Its lease, which nobody knows, goes with those of all others when the
// last damaged record is gone.
func (s *Set) giveUp(ctx context.Context, id string) (gone bool, err error) {
	unlock, err := s.lockReconciling(ctx)
	if err != nil {
		return false, err
	}
	defer unlock()
	s.mu.Lock()
	_, gone = s.damaged[id]
	s.mu.Unlock()
	if !gone {
		return false, nil
	}
	if err := s.Records.Delete(id); err != nil {
		return true, err
	}
	s.mu.Lock()
	delete(s.damaged, id)
	s.mu.Unlock()
	s.reconciled = false // with one less in the way
	return true, s.reconcileLocked(ctx)
}
