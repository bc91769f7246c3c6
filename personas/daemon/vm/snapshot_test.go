package vm

import (
	"encoding/binary"
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"banger/personas/api"
	"banger/store/disk/cow"
)

// giveUp writes what the kernel writes into a store that it gives up.
func giveUp(t *testing.T, path string) {
	t.Helper()
	var header []byte
	for _, word := range []uint32{0x70416e53, 0, 1, cow.ChunkSectors} {
		header = binary.LittleEndian.AppendUint32(header, word)
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	must(t, err)
	defer f.Close()
	_, err = f.WriteAt(header, 0)
	must(t, err)
}

// The helper gets the image and the store, and the guest one disk, which it grows.
func TestSnapshotIsOneDrive(t *testing.T) {
	l := newLab(t)
	rec := l.spec("a")
	rec.Backend, rec.Spec.DiskBytes = api.BackendSnapshot, l.image.Bytes+(1<<20)
	v := l.create(t, rec)
	l.h.mu.Lock()
	defer l.h.mu.Unlock()
	if !l.h.asked.Snapshot || len(l.h.disks) != 2 {
		t.Errorf("asked for %+v with %d files", l.h.asked, len(l.h.disks))
	}
	boot := l.h.boots[0]
	if boot.Disk.Device != "vda" || !boot.Disk.Grow || boot.Disk.Upper != "" {
		t.Errorf("the guest was told of %+v", boot.Disk)
	}
	info, err := os.Stat(v.Disk)
	must(t, err)
	layout, err := cow.Plan(l.image.Bytes, info.Size())
	if err != nil || layout.DiskBytes() != rec.Spec.DiskBytes {
		t.Errorf("the file makes a disk of %+v, %v", layout, err)
	}
}

// A snapshot that the kernel gives up is told while its VM runs, also by a daemon that
// has just come; and the VM does not start on it.
func TestLostSnapshotIsTold(t *testing.T) {
	l := newLab(t)
	l.StoreTime = 10 * time.Millisecond
	rec := l.spec("a")
	rec.Backend = api.BackendSnapshot
	v := l.create(t, rec)
	time.Sleep(50 * time.Millisecond)
	if v, err := l.Show("a"); err != nil || v.Reason != "" {
		t.Errorf("before: %q, %v", v.Reason, err)
	}
	giveUp(t, v.Disk)
	told := func() bool {
		v, err := l.Show("a")
		return err == nil && v.State == api.Running && strings.Contains(v.Reason, "its disk is lost")
	}
	eventually(t, "the word that the disk is lost", told)
	if in, err := l.find("a"); err != nil || in.record().Reason != "" {
		t.Errorf("the record was changed without the VM's token: %v", err)
	}
	l.restart(t)
	l.StoreTime = 10 * time.Millisecond
	must(t, l.Reconcile(t.Context()))
	eventually(t, "the word of the next daemon", told)

	_, err := l.Stop(t.Context(), "a", 0, ignore)
	must(t, err)
	_, err = l.Start(t.Context(), "a", ignore)
	var refused *api.Error
	if !errors.As(err, &refused) || refused.Code != api.CodeConflict || !strings.Contains(refused.Message, "disk of VM a is lost") {
		t.Errorf("start: %v", err)
	}
	l.wantState(t, "a", api.Stopped)
	if v, err := l.Show("a"); err != nil || v.Reason != "start failed: its disk is lost" {
		t.Errorf("after: %q, %v", v.Reason, err)
	}
	must(t, l.Delete(t.Context(), "a", false))
	l.wantNothing(t)
}
