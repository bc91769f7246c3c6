package helper

import (
	"context"
	"errors"
	"slices"
	"time"

	"banger/fc/jail"
	"banger/ops"
	"banger/store/disk/cow"
	"banger/store/disk/dm"
)

// starter starts a VMM in its jail.
type starter func(context.Context, *jail.Spec) (*jail.Process, error)

// withSnapshots is start for disks that are snapshots too: it makes their devices,
// which the VMM inherits, and which go with it, whoever is killed.
func withSnapshots(start starter) starter {
	return func(ctx context.Context, s *jail.Spec) (*jail.Process, error) {
		made := *s
		made.Disks = slices.Clone(s.Disks)
		for i, d := range made.Disks {
			if d.Origin == nil {
				continue
			}
			ctx, cancel := context.WithTimeout(ctx, snapshotTime)
			dev, err := dm.Snapshot{ID: s.ID, Origin: d.Origin, Store: d.File}.Open(ctx)
			cancel()
			if err != nil {
				return nil, err
			}
			defer dev.Close()
			made.Disks[i] = jail.Disk{File: dev}
		}
		return start(ctx, &made)
	}
}

// snapshotTime bounds the wait for the end of a snapshot, which the kernel takes
// away by itself.
const snapshotTime = 10 * time.Second

// snapshotDisk makes one disk of the two of a snapshot.
func (m *machines) snapshotDisk(disks []file) (jail.Disk, error) {
	if err := m.snapshots(); err != nil {
		return jail.Disk{}, &ops.Error{Code: ops.Unsupported, Message: "snapshot: " + err.Error()}
	}
	invalid := func(err error) (jail.Disk, error) {
		return jail.Disk{}, &ops.Error{Code: ops.Invalid, Message: err.Error()}
	}
	if len(disks) < 2 || !disks[0].readOnly || disks[1].readOnly {
		return invalid(errors.New("snapshot: want an image, read-only, and a store that can be written"))
	}
	image, err := disks[0].Stat()
	if err != nil {
		return jail.Disk{}, err
	}
	store, err := disks[1].Stat()
	if err != nil {
		return jail.Disk{}, err
	}
	if _, err := cow.Plan(image.Size(), store.Size()); err != nil {
		return invalid(err)
	}
	if err := cow.Check(disks[1]); err != nil {
		return invalid(err)
	}
	return jail.Disk{File: disks[1].File, Origin: disks[0].File}, nil
}

// snapshotsWord is what the daemon is told of them.
func (m *machines) snapshotsWord() string {
	if err := m.snapshots(); err != nil {
		return err.Error()
	}
	return ops.SnapshotsWork
}

// awaitSnapshot waits until the disk of r, whose VMM has ended, is gone.
func (r *reservation) awaitSnapshot(ctx context.Context) error {
	if !r.rec.Snapshot {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, snapshotTime)
	defer cancel()
	return dm.Await(ctx, r.rec.ID)
}
