package dm

import (
	"context"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

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

// status returns how full the store of a VM's disk is. An error that is cow.ErrBroken
// means that the kernel has given the snapshot up.
func status(id string) (usage, error) {
	c, err := openControl()
	if err != nil {
		return usage{}, err
	}
	defer c.Close()
	lines, err := c.table(Snapshot{ID: id}.name(), 0)
	if err != nil {
		return usage{}, err
	}
	return parseUsage(lines[0].params)
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
