package disk_test

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"

	"banger/store/disk"
)

const mib = 1 << 20

// image makes a file of size bytes in dir: random data at the start and in the middle,
// data in all when dense, holes else.
func image(t testing.TB, dir string, size int64, dense bool) *os.File {
	t.Helper()
	f, err := os.OpenFile(filepath.Join(dir, "image"), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	step := size / 2
	if dense {
		step = mib
	}
	random := rand.NewChaCha8([32]byte{1})
	block := make([]byte, min(mib, step))
	for at := int64(0); at < size; at += step {
		random.Read(block)
		if _, err := f.WriteAt(block, at); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.Sync(); err != nil {
		t.Fatal(err)
	}
	return f
}

func read(t *testing.T, name string) []byte {
	t.Helper()
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func names(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var list []string
	for _, e := range entries {
		list = append(list, e.Name())
	}
	return list
}

func allocated(t *testing.T, name string) int64 {
	t.Helper()
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	n, err := disk.Allocated(f)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestCopyKeepsDataAndHoles(t *testing.T) {
	for _, where := range []string{"same file system", "another file system"} {
		t.Run(where, func(t *testing.T) {
			dir := t.TempDir()
			from := dir
			if where == "another file system" {
				from = mounted(t, "ext4", 128)
			}
			origin := image(t, from, 64*mib, false)
			dst := filepath.Join(dir, "disk")
			if err := disk.Create(t.Context(), disk.Spec{Backend: disk.Copy, Origin: origin, SizeBytes: 80 * mib}, dst); err != nil {
				t.Fatal(err)
			}
			want := append(read(t, origin.Name()), make([]byte, 16*mib)...)
			if !bytes.Equal(read(t, dst), want) {
				t.Error("the copy differs from the image")
			}
			if got := allocated(t, dst); got > 3*mib {
				t.Errorf("the copy takes %d bytes, its data are %d", got, 2*mib)
			}
		})
	}
}

func TestOverlayIsAnEmptyFileSystem(t *testing.T) {
	dir := t.TempDir()
	var took []int64
	for _, size := range []int64{64 * mib, 1024 * mib, 64 * 1024 * mib} {
		dst := filepath.Join(dir, "disk")
		if err := disk.Create(t.Context(), disk.Spec{Backend: disk.Overlay, SizeBytes: size}, dst); err != nil {
			t.Fatal(err)
		}
		info, err := os.Stat(dst)
		if err != nil {
			t.Fatal(err)
		}
		if info.Size() != size {
			t.Errorf("size is %d, want %d", info.Size(), size)
		}
		took = append(took, allocated(t, dst))
		if fsck, err := exec.LookPath("e2fsck"); err != nil {
			t.Log("not checked: no e2fsck")
		} else if msg, err := exec.CommandContext(t.Context(), fsck, "-fn", dst).CombinedOutput(); err != nil {
			t.Errorf("e2fsck of %d bytes: %v\n%s", size, err, msg)
		}
		if err := os.Remove(dst); err != nil {
			t.Fatal(err)
		}
	}
	t.Log("bytes allocated:", took)
	if slices.Max(took) > 16*mib {
		t.Errorf("an empty overlay takes %d bytes", took)
	}
}

func TestCreateRefuses(t *testing.T) {
	dir := t.TempDir()
	origin := image(t, dir, 4*mib, true)
	exists := filepath.Join(dir, "exists")
	if err := os.WriteFile(exists, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	odd := image(t, t.TempDir(), 4*mib+512, false)
	free, err := disk.Free(dir)
	if err != nil {
		t.Fatal(err)
	}
	before := names(t, dir)
	for _, c := range []struct {
		name string
		ctx  context.Context
		spec disk.Spec
		dst  string
		want error
	}{
		{"smaller than the image", t.Context(), disk.Spec{Backend: disk.Copy, Origin: origin, SizeBytes: mib}, "new", disk.ErrSize},
		{"half a sector", t.Context(), disk.Spec{Backend: disk.Overlay, SizeBytes: 64*mib + 256}, "new", disk.ErrSize},
		{"negative", t.Context(), disk.Spec{Backend: disk.Overlay, SizeBytes: -512}, "new", disk.ErrSize},
		{"too small for a file system", t.Context(), disk.Spec{Backend: disk.Overlay, SizeBytes: mib}, "new", disk.ErrSize},
		{"too large for a file system", t.Context(), disk.Spec{Backend: disk.Overlay, SizeBytes: 1 << 50}, "new", disk.ErrSize},
		{"no image", t.Context(), disk.Spec{Backend: disk.Reflink, SizeBytes: mib}, "new", disk.ErrSize},
		{"no size", t.Context(), disk.Spec{Backend: disk.Overlay}, "new", disk.ErrSize},
		{"no backend", t.Context(), disk.Spec{Backend: "zfs", Origin: origin}, "new", disk.ErrUnsupported},
		{"snapshot of half a chunk", t.Context(), disk.Spec{Backend: disk.Snapshot, Origin: odd}, "new", disk.ErrUnsupported},
		{"snapshot with half a chunk", t.Context(), disk.Spec{Backend: disk.Snapshot, Origin: origin, SizeBytes: 8*mib + 512}, "new", disk.ErrSize},
		{"snapshot smaller than the image", t.Context(), disk.Spec{Backend: disk.Snapshot, Origin: origin, SizeBytes: mib}, "new", disk.ErrSize},
		{"snapshot of nothing", t.Context(), disk.Spec{Backend: disk.Snapshot, SizeBytes: mib}, "new", disk.ErrSize},
		{"snapshot that takes the reserve", t.Context(), disk.Spec{Backend: disk.Snapshot, Origin: origin, ReserveBytes: free - 4*mib}, "new", disk.ErrNoSpace},
		{"reserve", t.Context(), disk.Spec{Backend: disk.Copy, Origin: origin, ReserveBytes: 1 << 60}, "new", disk.ErrNoSpace},
		{"something there", t.Context(), disk.Spec{Backend: disk.Copy, Origin: origin}, "exists", fs.ErrExist},
		{"no directory", t.Context(), disk.Spec{Backend: disk.Copy, Origin: origin}, "none/new", fs.ErrNotExist},
		{"cancelled", cancelled, disk.Spec{Backend: disk.Copy, Origin: origin}, "new", context.Canceled},
	} {
		t.Run(c.name, func(t *testing.T) {
			if err := disk.Create(c.ctx, c.spec, filepath.Join(dir, c.dst)); !errors.Is(err, c.want) {
				t.Errorf("got error %v, want %v", err, c.want)
			}
			if after := names(t, dir); !slices.Equal(after, before) {
				t.Errorf("left behind: %v", after)
			}
		})
	}
	if got := read(t, exists); string(got) != "precious" {
		t.Errorf("overwritten: %q", got)
	}
}

func TestFullDiskLeavesNothing(t *testing.T) {
	elsewhere := t.TempDir()
	origin := image(t, elsewhere, 64*mib, true)
	small := mounted(t, "ext4", 32)
	before := names(t, small)
	free, err := disk.Free(small)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name    string
		reserve int64
	}{
		{"told beforehand", 0},
		// As if the space had gone after the check.
		{"found while writing", -1 << 40},
	} {
		t.Run(c.name, func(t *testing.T) {
			err := disk.Create(t.Context(), disk.Spec{Backend: disk.Copy, Origin: origin, ReserveBytes: c.reserve}, filepath.Join(small, "disk"))
			if !errors.Is(err, disk.ErrNoSpace) {
				t.Errorf("got error %v, want %v", err, disk.ErrNoSpace)
			}
			if after := names(t, small); !slices.Equal(after, before) {
				t.Errorf("left behind: %v", after)
			}
			if after, err := disk.Free(small); err != nil || after != free {
				t.Errorf("free bytes: %d before, %d after (%v)", free, after, err)
			}
		})
	}
}
