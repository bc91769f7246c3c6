package disk_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"banger/store/disk"
	"banger/store/disk/cow"
)

// TestSnapshotIsAllocated: the store as a whole, and nothing of what is beyond the
// image.
func TestSnapshotIsAllocated(t *testing.T) {
	for _, kind := range []string{"ext4", "xfs"} {
		t.Run(kind, func(t *testing.T) {
			dir := mounted(t, kind, 400)
			origin := image(t, dir, 16*mib, true)
			dst := filepath.Join(dir, "disk")
			begin := time.Now()
			err := disk.Create(t.Context(), disk.Spec{Backend: disk.Snapshot, Origin: origin, SizeBytes: 1024 * mib}, dst)
			if err != nil {
				t.Fatal(err)
			}
			t.Log("took", time.Since(begin))
			f, err := os.Open(dst)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			info, err := f.Stat()
			if err != nil {
				t.Fatal(err)
			}
			l, err := cow.Plan(16*mib, info.Size())
			if err != nil || l.DiskBytes() != 1024*mib {
				t.Errorf("got %+v, %v", l, err)
			}
			if got := allocated(t, dst); got < l.StoreBytes || got > l.StoreBytes+mib {
				t.Errorf("%d bytes allocated, want %d", got, l.StoreBytes)
			}
			if hole, err := f.Seek(l.StoreBytes, unix.SEEK_DATA); !errors.Is(err, unix.ENXIO) {
				t.Errorf("beyond the store there is data at %d, %v", hole, err)
			}
			if err := cow.Check(f); err != nil {
				t.Errorf("new store: %v", err)
			}
		})
	}
}

// TestSnapshotOnFullDisk: room that went after the check is an error of making the
// disk, and none that the guest would meet.
func TestSnapshotOnFullDisk(t *testing.T) {
	origin := image(t, t.TempDir(), 64*mib, false)
	small := mounted(t, "ext4", 32)
	before := names(t, small)
	for name, reserve := range map[string]int64{"told beforehand": 0, "found while allocating": -1 << 40} {
		err := disk.Create(t.Context(), disk.Spec{Backend: disk.Snapshot, Origin: origin, ReserveBytes: reserve}, filepath.Join(small, "disk"))
		if !errors.Is(err, disk.ErrNoSpace) {
			t.Errorf("%s: got error %v, want %v", name, err, disk.ErrNoSpace)
		}
		if after := names(t, small); len(after) != len(before) {
			t.Errorf("%s: left behind: %v", name, after)
		}
	}
}
