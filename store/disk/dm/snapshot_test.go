package dm

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"banger/store/disk"
	"banger/store/disk/cow"
)

// Four whole areas of exceptions, and as much beyond the image again.
const (
	imageBytes = 4 * 256 * cow.ChunkBytes
	diskBytes  = 2 * imageBytes
)

// needDM skips where there is no device mapper: TestInGuest brings one.
func needDM(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("not root")
	}
	if err := Probe(); err != nil {
		t.Skip("no snapshots here: ", err)
	}
}

// workDir is a directory on a real file system.
func workDir(t *testing.T) string {
	t.Helper()
	if !inGuest() {
		return t.TempDir()
	}
	dir, err := os.MkdirTemp(guestDir, "test-")
	must(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// noise is the same at every call with the same seed.
func noise(seed byte, n int) []byte {
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{seed}).Read(b)
	return b
}

func makeImage(t *testing.T, dir string) *os.File {
	t.Helper()
	path := filepath.Join(dir, "image")
	must(t, os.WriteFile(path, noise(1, imageBytes), 0o444))
	image := openFile(t, path, os.O_RDONLY)
	must(t, image.Sync())
	return image
}

func openFile(t *testing.T, path string, mode int) *os.File {
	t.Helper()
	f, err := os.OpenFile(path, mode, 0)
	must(t, err)
	t.Cleanup(func() { f.Close() })
	return f
}

// newSnapshot makes the file of a disk, and says what the disk is made of.
func newSnapshot(t *testing.T, id string, origin *os.File) Snapshot {
	t.Helper()
	path := filepath.Join(filepath.Dir(origin.Name()), "disk-"+id)
	must(t, disk.Create(t.Context(), disk.Spec{Backend: disk.Snapshot, Origin: origin, SizeBytes: diskBytes}, path))
	return Snapshot{ID: id, Origin: origin, Store: openFile(t, path, os.O_RDWR)}
}

func openDisk(t *testing.T, s Snapshot) *os.File {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	dev, err := s.Open(ctx)
	must(t, err)
	t.Cleanup(func() { dev.Close() })
	return dev
}

// read reads past the cache that others' descriptors share.
func read(t *testing.T, dev *os.File) []byte {
	t.Helper()
	const blkflsbuf = 0x1261 // linux/fs.h
	must(t, dev.Sync())
	must(t, unix.IoctlSetInt(int(dev.Fd()), blkflsbuf, 0))
	b, err := io.ReadAll(io.NewSectionReader(dev, 0, 1<<40))
	must(t, err)
	return b
}

func write(t *testing.T, dev *os.File, data []byte, at int64) {
	t.Helper()
	_, err := dev.WriteAt(data, at)
	must(t, err)
	must(t, dev.Sync())
}

// leftovers lists what is there of banger's devices, and loop devices in use.
func leftovers(t *testing.T) (list []string) {
	t.Helper()
	paths, err := filepath.Glob("/sys/block/dm-*/dm/uuid")
	must(t, err)
	loops, err := filepath.Glob("/sys/block/loop*/loop/backing_file")
	must(t, err)
	for _, path := range append(paths, loops...) {
		text, err := os.ReadFile(path)
		if err == nil && (strings.HasPrefix(string(text), prefix) || strings.Contains(string(text), "/disk-") || strings.HasSuffix(string(text), "/image\n")) {
			list = append(list, strings.TrimSpace(string(text)))
		}
	}
	return list
}

// wantNothing waits for the end of the disks, and looks for what is left.
func wantNothing(t *testing.T, ids ...string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	for _, id := range ids {
		must(t, Await(ctx, id))
	}
	for left := leftovers(t); len(left) > 0; left = leftovers(t) {
		if pause(ctx) != nil {
			t.Fatal("left: ", left)
		}
	}
}

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
	u, err := Status("aaaa0001")
	if err != nil || u.UsedSectors == 0 || u.UsedSectors >= u.TotalSectors {
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
	u, err := Status(s.ID)
	// The last area's successor has its place, and is not counted.
	if err != nil || u.TotalSectors != cow.StoreBytes(imageBytes)/512 || u.UsedSectors < u.TotalSectors-2*cow.ChunkSectors {
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
	if _, err := Status(s.ID); !errors.Is(err, cow.ErrBroken) {
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

// TestRefusedLeavesNothing: whatever is wrong with the files.
func TestRefusedLeavesNothing(t *testing.T) {
	needDM(t)
	dir := workDir(t)
	origin := makeImage(t, dir)
	s := newSnapshot(t, "eeee0001", origin)
	small := filepath.Join(dir, "disk-small")
	must(t, os.WriteFile(small, make([]byte, cow.StoreBytes(imageBytes)-cow.ChunkBytes), 0o600))
	alien := filepath.Join(dir, "disk-alien")
	must(t, os.WriteFile(alien, bytes.Repeat([]byte("alien"), int(cow.StoreBytes(imageBytes))/5+1)[:cow.StoreBytes(imageBytes)], 0o600))
	for name, c := range map[string]Snapshot{
		"no id":             {ID: "", Origin: s.Origin, Store: s.Store},
		"a path for an id":  {ID: "../../x", Origin: s.Origin, Store: s.Store},
		"a small store":     {ID: s.ID, Origin: s.Origin, Store: openFile(t, small, os.O_RDWR)},
		"an alien store":    {ID: s.ID, Origin: s.Origin, Store: openFile(t, alien, os.O_RDWR)},
		"a read-only store": {ID: s.ID, Origin: s.Origin, Store: openFile(t, s.Store.Name(), os.O_RDONLY)},
		"a directory":       {ID: s.ID, Origin: openFile(t, dir, os.O_RDONLY), Store: s.Store},
		"a device":          {ID: s.ID, Origin: openFile(t, "/dev/zero", os.O_RDONLY), Store: s.Store},
	} {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		if dev, err := c.Open(ctx); err == nil {
			t.Errorf("%s: opened", name)
			dev.Close()
		}
		cancel()
		wantNothing(t, s.ID)
	}
}

// TestStoreWithOtherChunks: an owner who writes into the header when it has been
// looked at gets nothing but an error.
func TestStoreWithOtherChunks(t *testing.T) {
	needDM(t)
	s := newSnapshot(t, "eeee0002", makeImage(t, workDir(t)))
	dev := openDisk(t, s)
	write(t, dev, []byte("x"), 0)
	must(t, dev.Close())
	wantNothing(t, s.ID)
	_, err := s.Store.WriteAt([]byte{32}, 12)
	must(t, err)
	must(t, s.Store.Sync())
	l, err := s.layout()
	must(t, err)
	if _, err := s.tryOpen(t.Context(), l); !errors.Is(err, cow.ErrBroken) {
		t.Errorf("got %v", err)
	}
	wantNothing(t, s.ID)
}

// TestFilesChangeWhileOpening: an owner who cuts, fills and unlinks his files while a
// device is made of them gets one of what was checked, or an error.
func TestFilesChangeWhileOpening(t *testing.T) {
	needDM(t)
	dir := workDir(t)
	origin := makeImage(t, dir)
	s := newSnapshot(t, "eeee0003", origin)
	info, err := s.Store.Stat()
	must(t, err)
	path := s.Store.Name()
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			// Errors are the attacker's.
			os.Truncate(path, int64(i%3)*4096)
			s.Store.WriteAt(noise(byte(i), 64), 0)
			os.Rename(path, path+".gone")
			os.WriteFile(path, nil, 0o600)
			os.Rename(path+".gone", path)
			os.Truncate(path, info.Size())
			s.Store.WriteAt(make([]byte, 64), 0)
			time.Sleep(time.Duration(i%7) * 20 * time.Millisecond)
		}
	}()
	opened := 0
	for range 40 {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		dev, err := s.Open(ctx)
		cancel()
		if err != nil {
			continue
		}
		opened++
		if size, err := dev.Seek(0, io.SeekEnd); err != nil || size < imageBytes || size > diskBytes {
			t.Errorf("a disk of %d bytes, %v", size, err)
		}
		dev.Close()
	}
	close(stop)
	<-stopped
	t.Log("opened", opened, "of 40")
	if opened == 0 {
		t.Error("nothing was tried: no file was ever left alone for long enough")
	}
	wantNothing(t, s.ID)
	if !bytes.Equal(readFile(t, origin.Name()), noise(1, imageBytes)) {
		t.Error("the image has changed")
	}
}

// TestSecondOpenWaits: for the end of the first, and not for ever.
func TestSecondOpenWaits(t *testing.T) {
	needDM(t)
	s := newSnapshot(t, "ffff0001", makeImage(t, workDir(t)))
	dev := openDisk(t, s)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := s.Open(ctx); !errors.Is(err, ErrBusy) {
		t.Errorf("got %v", err)
	}
	time.AfterFunc(50*time.Millisecond, func() { dev.Close() })
	must(t, openDisk(t, s).Close())
	wantNothing(t, s.ID)
}

// holderName is the part of a process that opens a disk: its arguments are the
// id, the image and the store.
const holderName = "holder"

func hold() {
	origin, err := os.Open(os.Args[2])
	if err == nil {
		var store *os.File
		if store, err = os.OpenFile(os.Args[3], os.O_RDWR, 0); err == nil {
			_, err = Snapshot{ID: os.Args[1], Origin: origin, Store: store}.Open(context.Background())
		}
	}
	fmt.Println("open", err)
	time.Sleep(time.Minute)
	os.Exit(1)
}

// TestKilledHolderLeavesNothing: a process that is killed while it has the disk
// takes it away, and one that is killed while it makes it leaves no more than the
// next one removes.
func TestKilledHolderLeavesNothing(t *testing.T) {
	needDM(t)
	origin := makeImage(t, workDir(t))
	s := newSnapshot(t, "ffff0002", origin)
	exe, err := os.Executable()
	must(t, err)
	start := func() (*exec.Cmd, io.Reader) {
		cmd := &exec.Cmd{Path: exe, Args: []string{holderName, s.ID, origin.Name(), s.Store.Name()}}
		out, err := cmd.StdoutPipe()
		must(t, err)
		must(t, cmd.Start())
		return cmd, out
	}
	cmd, out := start()
	line := make([]byte, 64)
	n, err := out.Read(line)
	must(t, err)
	if got := string(line[:n]); got != "open <nil>\n" {
		t.Fatalf("the holder says %q", got)
	}
	if len(leftovers(t)) == 0 {
		t.Error("the holder has nothing")
	}
	must(t, cmd.Process.Kill())
	cmd.Wait()
	wantNothing(t, s.ID)

	stray := 0
	for i := range 40 {
		cmd, _ := start()
		time.Sleep(time.Duration(i) * 3 * time.Millisecond) // anywhere in its work
		must(t, cmd.Process.Kill())
		cmd.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Millisecond)
		if Await(ctx, s.ID) != nil {
			stray++
		}
		cancel()
		must(t, Sweep(t.Context()))
		wantNothing(t, s.ID)
	}
	t.Log("killed in the moment in which something stays:", stray)
}

// TestSweepKeepsOthers: devices in use, and those that are not banger's, whatever
// their names.
func TestSweepKeepsOthers(t *testing.T) {
	needDM(t)
	s := newSnapshot(t, "ffff0003", makeImage(t, workDir(t)))
	dev := openDisk(t, s)
	c, err := openControl()
	must(t, err)
	defer c.Close()
	_, _, err = c.do(request{command: unix.DM_DEV_CREATE, what: "create", name: "banger-lookalike", uuid: "LVM-x"})
	must(t, err)
	defer c.remove("banger-lookalike", 0)
	must(t, Sweep(t.Context()))
	if _, _, err := c.do(request{command: unix.DM_DEV_STATUS, what: "look", name: "banger-lookalike"}); err != nil {
		t.Error(err)
	}
	if _, err := Status(s.ID); err != nil {
		t.Error(err)
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
