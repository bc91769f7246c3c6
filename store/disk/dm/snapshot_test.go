package dm

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"banger/store/disk"
	"banger/store/disk/cow"
)

// TestLifeOfSnapshot: two VMs share an image, each sees what it has written alone,
// again after the device has gone and come back, and the image never changes.
func TestLifeOfSnapshot(t *testing.T) {
	needDM(t)
	dir := workDir(t)
	origin := makeImage(t, dir)
	before := sha256.Sum256(noise(1, imageBytes))
	a, b := newSnapshot(t, "aaaa0001", origin), newSnapshot(t, "aaaa0002", origin)
	begin := time.Now()
	da := openDisk(t, a)
	t.Log("open took", time.Since(begin))
	db := openDisk(t, b)
	fresh := append(noise(1, imageBytes), make([]byte, diskBytes-imageBytes)...)
	for _, dev := range []*os.File{da, db} {
		if !bytes.Equal(read(t, dev), fresh) {
			t.Fatal("a new disk is not the image and zeros")
		}
	}
	wantA, wantB := bytes.Clone(fresh), bytes.Clone(fresh)
	for i, part := range []struct {
		at int64
		n  int
	}{
		{0, 512}, {4096 + 512, 512}, {100 * 4096, 3 * 4096}, {imageBytes - 512, 1024}, {diskBytes - 4096, 4096},
	} {
		data := noise(byte(10+i), part.n)
		copy(wantA[part.at:], data)
		write(t, da, data, part.at)
	}
	copy(wantB[8192:], "b was here")
	write(t, db, []byte("b was here"), 8192)
	if !bytes.Equal(read(t, da), wantA) || !bytes.Equal(read(t, db), wantB) {
		t.Error("a disk does not have what was written to it")
	}
	u, err := status("aaaa0001")
	if err != nil || u.usedSectors == 0 || u.usedSectors >= u.totalSectors {
		t.Errorf("status: %+v, %v", u, err)
	}
	if left := leftovers(t); len(left) != 8 { // two devices with three loops each
		t.Errorf("devices: %v", left)
	}
	must(t, da.Close())
	must(t, db.Close())
	wantNothing(t, a.ID, b.ID)

	da, db = openDisk(t, a), openDisk(t, b)
	if !bytes.Equal(read(t, da), wantA) || !bytes.Equal(read(t, db), wantB) {
		t.Error("a disk that came back does not have what was written to it")
	}
	must(t, da.Close())
	must(t, db.Close())
	wantNothing(t, a.ID, b.ID)
	if got := sha256.Sum256(readFile(t, origin.Name())); got != before {
		t.Error("the image has changed")
	}
}

func readFile(t *testing.T, path string) []byte {
	t.Helper()
	data, err := os.ReadFile(path)
	must(t, err)
	return data
}

// TestStoreCannotOverflow: with every byte of the disk written, twice, the store
// is just full; with one chunk less it would have been broken.
func TestStoreCannotOverflow(t *testing.T) {
	needDM(t)
	origin := makeImage(t, workDir(t))
	s := newSnapshot(t, "bbbb0001", origin)
	size := fileBlocks(t, s.Store)
	dev := openDisk(t, s)
	for seed := range byte(2) {
		write(t, dev, noise(20+seed, diskBytes), 0)
	}
	if !bytes.Equal(read(t, dev), noise(21, diskBytes)) {
		t.Error("the disk does not have what was written to it")
	}
	u, err := status(s.ID)
	// The last area's successor has its place, and is not counted.
	if err != nil || u.totalSectors != cow.StoreBytes(imageBytes)/512 || u.usedSectors < u.totalSectors-2*cow.ChunkSectors {
		t.Errorf("status: %+v, %v", u, err)
	}
	if got := fileBlocks(t, s.Store); got != size+(diskBytes-imageBytes)/512 {
		t.Errorf("the file took %d sectors and takes %d: more than the tail has come", size, got)
	}
	must(t, cow.Check(s.Store))
	must(t, dev.Close())
	wantNothing(t, s.ID)
}

// TestSmallerStoreBreaks proves that the sizes of package cow are not larger than
// they must be, and that what is broken is seen: by the kernel's status, in the file,
// and by who opens it next.
func TestSmallerStoreBreaks(t *testing.T) {
	needDM(t)
	origin := makeImage(t, workDir(t))
	s := newSnapshot(t, "cccc0001", origin)
	dev := openShort(t, s)
	must(t, cow.Check(s.Store))
	if _, err := dev.WriteAt(noise(30, imageBytes), 0); err == nil {
		err = dev.Sync()
		t.Log("write: ", err)
	}
	if _, err := status(s.ID); !errors.Is(err, cow.ErrBroken) {
		t.Errorf("status: %v", err)
	}
	if err := cow.Check(s.Store); !errors.Is(err, cow.ErrBroken) {
		t.Errorf("header: %v", err)
	}
	dev.Close()
	wantNothing(t, s.ID)
	if _, err := s.Open(t.Context()); !errors.Is(err, cow.ErrBroken) {
		t.Errorf("open: %v", err)
	}
	wantNothing(t, s.ID)
}

// openShort opens s with a store that is one chunk too small.
func openShort(t *testing.T, s Snapshot) *os.File {
	t.Helper()
	c, err := openControl()
	must(t, err)
	defer c.Close()
	must(t, c.lock(t.Context()))
	head, _, err := c.do(request{command: unix.DM_DEV_CREATE, what: "create", name: s.name(), uuid: prefix + s.ID + "-disk0"})
	must(t, err)
	l := cow.Layout{OriginBytes: imageBytes, StoreBytes: cow.StoreBytes(imageBytes) - cow.ChunkBytes}
	dev, err := s.fill(t.Context(), c, l, head.Dev)
	must(t, err)
	t.Cleanup(func() { dev.Close() })
	return dev
}

func fileBlocks(t *testing.T, f *os.File) int64 {
	t.Helper()
	must(t, f.Sync())
	n, err := disk.Allocated(f)
	must(t, err)
	return n / 512
}

// Of linux/fs.h.
const (
	blkDiscard = 0x1277
	blkZeroOut = 0x127f
)

// TestDiscard: what a guest gives back stays allocated, so that no later write of
// its finds the host full; and nothing else is lost by it.
func TestDiscard(t *testing.T) {
	needDM(t)
	origin := makeImage(t, workDir(t))
	s := newSnapshot(t, "dddd0001", origin)
	dev := openDisk(t, s)
	data := noise(40, diskBytes)
	write(t, dev, data, 0)
	size := fileBlocks(t, s.Store)
	span := [2]uint64{64 << 10, 128 << 10}
	if err := ioctl(dev, blkDiscard, &span); !errors.Is(err, unix.EOPNOTSUPP) {
		t.Errorf("discard: %v", err)
	}
	if err := ioctl(dev, blkZeroOut, &span); err != nil {
		t.Errorf("zero: %v", err)
	}
	clear(data[span[0] : span[0]+span[1]])
	if !bytes.Equal(read(t, dev), data) {
		t.Error("the disk does not have what was written to it")
	}
	if got := fileBlocks(t, s.Store); got < size {
		t.Errorf("the file took %d sectors and takes %d", size, got)
	}
	must(t, dev.Close())
	wantNothing(t, s.ID)
}

// TestZBeforeCrash is the last one before the guest ends without a word to its
// disk; TestAfterCrash looks at what came of it.
func TestZBeforeCrash(t *testing.T) {
	if !inGuest() {
		t.Skip("this is no guest")
	}
	origin := makeImage(t, guestDir)
	s := newSnapshot(t, "0000abcd", origin)
	dev := openDisk(t, s)
	write(t, dev, noise(50, 3*imageBytes/2), 4096)
}

func TestAfterCrash(t *testing.T) {
	if !inGuest() {
		t.Skip("this is no guest")
	}
	needDM(t)
	s := Snapshot{
		ID:     "0000abcd",
		Origin: openFile(t, filepath.Join(guestDir, "image"), os.O_RDONLY),
		Store:  openFile(t, filepath.Join(guestDir, "disk-0000abcd"), os.O_RDWR),
	}
	dev := openDisk(t, s)
	want := append(noise(1, imageBytes), make([]byte, diskBytes-imageBytes)...)
	copy(want[4096:], noise(50, 3*imageBytes/2))
	if !bytes.Equal(read(t, dev), want) {
		t.Error("what was synced before the crash is not there")
	}
	must(t, dev.Close())
	wantNothing(t, s.ID)
}

func ioctl(f *os.File, request uintptr, arg *[2]uint64) error {
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), request, uintptr(unsafe.Pointer(arg))); errno != 0 {
		return errno
	}
	return nil
}
