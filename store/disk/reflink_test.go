package disk_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"banger/store/disk"
)

func TestProbe(t *testing.T) {
	for _, c := range []struct {
		fs      string
		reflink bool
		want    disk.Backend
	}{
		{"btrfs", true, disk.Reflink},
		{"xfs", true, disk.Reflink},
		{"ext4", false, disk.Overlay},
	} {
		t.Run(c.fs, func(t *testing.T) {
			dir := mounted(t, c.fs, 400)
			before := names(t, dir)
			findings, err := disk.Probe(dir, errors.New("no device mapper"))
			if err != nil {
				t.Fatal(err)
			}
			if findings[0].Backend != disk.Reflink || (findings[0].Err == nil) != c.reflink {
				t.Errorf("reflink: %v", findings[0])
			}
			if !c.reflink && !errors.Is(findings[0].Err, disk.ErrUnsupported) {
				t.Errorf("got error %v, want %v", findings[0].Err, disk.ErrUnsupported)
			}
			if got := disk.Choose(findings); got != c.want {
				t.Errorf("chose %s, want %s", got, c.want)
			}
			findings, err = disk.Probe(dir, nil)
			if err != nil {
				t.Fatal(err)
			}
			if got := disk.Choose(findings); !c.reflink && got != disk.Snapshot || c.reflink && got != disk.Reflink {
				t.Errorf("with a device mapper: chose %s", got)
			}
			if after := names(t, dir); len(after) != len(before) {
				t.Errorf("left behind: %v", after)
			}
		})
	}
	if _, err := disk.Probe(filepath.Join(t.TempDir(), "none"), nil); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("missing directory: got error %v", err)
	}
}

func TestReflinkSharesBlocksUntilWritten(t *testing.T) {
	for _, kind := range []string{"btrfs", "xfs"} {
		t.Run(kind, func(t *testing.T) {
			dir := mounted(t, kind, 400)
			origin := image(t, dir, 32*mib, true)
			before := read(t, origin.Name())
			dst := filepath.Join(dir, "disk")
			if err := disk.Create(t.Context(), disk.Spec{Backend: disk.Reflink, Origin: origin, SizeBytes: 48 * mib}, dst); err != nil {
				t.Fatal(err)
			}
			f, err := os.OpenFile(dst, os.O_RDWR, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			if shared, total := extents(t, f); shared != total || total != 32*mib {
				t.Errorf("%d of %d bytes are shared", shared, total)
			}
			if !bytes.Equal(read(t, dst)[:32*mib], before) {
				t.Error("the disk differs from the image")
			}
			if _, err := f.WriteAt(bytes.Repeat([]byte{7}, mib), 8*mib); err != nil {
				t.Fatal(err)
			}
			if err := f.Sync(); err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(read(t, origin.Name()), before) {
				t.Error("writing to the disk changed the image")
			}
			if shared, total := extents(t, f); total-shared != mib {
				t.Errorf("after 1 MiB was written, %d of %d bytes are shared", shared, total)
			}
		})
	}
}

// TestReflinkCostsTheSame makes a disk of images whose sizes are far apart.
func TestReflinkCostsTheSame(t *testing.T) {
	for _, kind := range []string{"btrfs", "xfs"} {
		t.Run(kind, func(t *testing.T) {
			dir := mounted(t, kind, 800)
			var took []time.Duration
			for _, size := range []int64{8 * mib, 384 * mib} {
				origin := image(t, dir, size, true)
				best := time.Hour
				free, err := disk.Free(dir)
				if err != nil {
					t.Fatal(err)
				}
				for range 5 {
					dst := filepath.Join(dir, "disk")
					start := time.Now()
					err := disk.Create(t.Context(), disk.Spec{Backend: disk.Reflink, Origin: origin, Volatile: true}, dst)
					best = min(best, time.Since(start))
					if err != nil {
						t.Fatal(err)
					}
					now, err := disk.Free(dir)
					if err != nil {
						t.Fatal(err)
					}
					if free-now > 4*mib {
						t.Errorf("a disk of %d MiB takes %d bytes", size/mib, free-now)
					}
					if err := os.Remove(dst); err != nil {
						t.Fatal(err)
					}
				}
				took = append(took, best)
				if err := os.Remove(origin.Name()); err != nil {
					t.Fatal(err)
				}
			}
			t.Logf("8 MiB: %v, 384 MiB: %v", took[0], took[1])
			if took[1] > 5*took[0]+time.Millisecond {
				t.Errorf("the larger image took %v, the smaller %v", took[1], took[0])
			}
		})
	}
}

func TestReflinkAcrossFileSystems(t *testing.T) {
	origin := image(t, t.TempDir(), 4*mib, true)
	dir := mounted(t, "btrfs", 400)
	err := disk.Create(t.Context(), disk.Spec{Backend: disk.Reflink, Origin: origin}, filepath.Join(dir, "disk"))
	if !errors.Is(err, disk.ErrUnsupported) {
		t.Errorf("got error %v, want %v", err, disk.ErrUnsupported)
	}
	if left := names(t, dir); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
}

// extents returns how many bytes of f lie in extents that it shares with other files,
// and in extents at all, as FIEMAP tells.
func extents(t *testing.T, f *os.File) (shared, total int64) {
	t.Helper()
	const (
		fiemap     = 0xc020660b // FS_IOC_FIEMAP
		syncFirst  = 1          // FIEMAP_FLAG_SYNC
		lastExtent = 0x1        // FIEMAP_EXTENT_LAST
		sharedFlag = 0x2000     // FIEMAP_EXTENT_SHARED
	)
	type extent struct {
		logical, physical, length uint64
		_                         [2]uint64
		flags                     uint32
		_                         [3]uint32
	}
	var m struct {
		start, length           uint64
		flags, mapped, count, _ uint32
		extents                 [512]extent
	}
	m.length, m.flags, m.count = 1<<62, syncFirst, uint32(len(m.extents))
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), fiemap, uintptr(unsafe.Pointer(&m))); errno != 0 {
		t.Fatal("fiemap: ", errno)
	}
	for _, e := range m.extents[:m.mapped] {
		total += int64(e.length)
		if e.flags&sharedFlag != 0 {
			shared += int64(e.length)
		}
	}
	if m.mapped == m.count && m.extents[m.count-1].flags&lastExtent == 0 {
		t.Fatal("fiemap: too many extents")
	}
	return shared, total
}
