package ext4

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"banger/store/ext4/ext4test"
)

// TestLargeDirectory has enough names for an index of two levels: 100,000 short ones in one
// directory and long ones in another.
func TestLargeDirectory(t *testing.T) {
	const short, long = 100_000, 12_000
	w, f := newImage(t, Options{})
	start := time.Now()
	for i := range short {
		must(t, w.Create(fmt.Sprintf("short/file-%d", i), Header{Mode: modeRegular | 0o644, ModTime: epoch}))
	}
	for i := range long {
		must(t, w.Create(fmt.Sprintf("long/%08d%s", i, strings.Repeat("x", 247)), Header{Mode: modeRegular | 0o644, ModTime: epoch}))
	}
	created := time.Since(start)
	finish(t, w, f)
	t.Logf("%d entries in %v", short+long, created)
	dir, unmount := ext4test.Mount(t, f.Name(), "")
	for sub, want := range map[string]int{"short": short, "long": long} {
		names, err := os.ReadDir(filepath.Join(dir, sub))
		must(t, err)
		if len(names) != want {
			t.Errorf("%s has %d names, want %d", sub, len(names), want)
		}
		for i := 0; i < len(names); i += 97 { // each through the index
			if _, err := os.Lstat(filepath.Join(dir, sub, names[i].Name())); err != nil {
				t.Fatal(err)
			}
		}
	}
	for i := range 2000 { // split leaves
		must(t, os.WriteFile(filepath.Join(dir, fmt.Sprintf("short/new-%d", i)), nil, 0o600))
		must(t, os.Remove(filepath.Join(dir, fmt.Sprintf("short/file-%d", i*7))))
	}
	unmount()
	ext4test.Check(t, f.Name())
}

// TestLookupIsNotQuadratic compares the time per entry of a large and a small directory.
func TestLookupIsNotQuadratic(t *testing.T) {
	per := func(n int) time.Duration {
		w, _ := newImage(t, Options{})
		start := time.Now()
		for i := range n {
			must(t, w.Create(fmt.Sprintf("dir/file-%d", i), Header{Mode: modeRegular}))
		}
		if _, err := w.Finish(); err != nil {
			t.Fatal(err)
		}
		return time.Since(start) / time.Duration(n)
	}
	per(2000)
	best := func(n int) time.Duration { return min(per(n), per(n), per(n)) }
	small, large := best(10_000), best(160_000)
	t.Logf("%v per entry of 10,000, %v of 160,000", small, large)
	if large > 8*small { // quadratic would be 16 times
		t.Errorf("%v per entry of 160,000, %v of 10,000", large, small)
	}
}

// TestManySubdirectories has more subdirectories than a link count can tell.
func TestManySubdirectories(t *testing.T) {
	const n = maxLinks + 10
	w, f := newImage(t, Options{})
	for i := range n {
		must(t, w.Create(fmt.Sprintf("dir/%d", i), Header{Mode: modeDir | 0o755}))
	}
	finish(t, w, f)
	dir, _ := ext4test.Mount(t, f.Name(), "ro")
	var s unix.Stat_t
	must(t, unix.Stat(filepath.Join(dir, "dir"), &s))
	if s.Nlink != 1 {
		t.Errorf("link count %d, want 1", s.Nlink)
	}
}

func TestTooManyLinks(t *testing.T) {
	w, f := newImage(t, Options{})
	put(t, w, "file", []byte("x"))
	for i := 1; i < maxLinks; i++ {
		must(t, w.Link("file", fmt.Sprint("links/", i)))
	}
	if err := w.Link("file", "last"); !errors.Is(err, ErrLinks) {
		t.Errorf("link %d: %v", maxLinks+1, err)
	}
	finish(t, w, f)
}

// TestLargeSparseFile is larger than 4 GiB and 2^32 bytes of it are one hole.
func TestLargeSparseFile(t *testing.T) {
	w, f := newImage(t, Options{})
	const hole = 4<<30 + 12345
	begin, end := noise(1, 10000), noise(2, 300000)
	must(t, w.Create("large", Header{Mode: modeRegular | 0o600, Size: int64(len(begin)) + hole + int64(len(end))}))
	content := io.MultiReader(bytes.NewReader(begin), io.LimitReader(zeroes{}, hole), bytes.NewReader(end))
	if _, err := io.CopyBuffer(struct{ io.Writer }{w}, content, make([]byte, 1<<20)); err != nil {
		t.Fatal(err)
	}
	finish(t, w, f)
	var s unix.Stat_t
	must(t, unix.Fstat(int(f.Fd()), &s))
	if used := s.Blocks * 512; used > 8<<20 {
		t.Errorf("the image takes %d bytes of the host's disk", used)
	}
	dir, _ := ext4test.Mount(t, f.Name(), "ro")
	g, err := os.Open(filepath.Join(dir, "large"))
	must(t, err)
	defer g.Close()
	// The second run of data begins in the block where the hole ends.
	at, err := unix.Seek(int(g.Fd()), 3*blockSize, unix.SEEK_DATA)
	endAt := int64(len(begin)) + hole
	if err != nil || at != endAt/blockSize*blockSize {
		t.Errorf("data at %d, %v; want it at %d", at, err, endAt/blockSize*blockSize)
	}
	for off, want := range map[int64][]byte{0: append(begin, make([]byte, 5000)...), endAt - 5000: append(make([]byte, 5000), end...)} {
		got := make([]byte, len(want))
		if _, err := g.ReadAt(got, off); err != nil || !bytes.Equal(got, want) {
			t.Errorf("content at %d differs: %v", off, err)
		}
	}
}

type zeroes struct{}

func (zeroes) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

// TestDeepMap has more extents than one level of map blocks can hold.
func TestDeepMap(t *testing.T) {
	const extents = extentsInInode*extentsPerBlock + 100
	w, f := newImage(t, Options{})
	content := make([]byte, 2*extents*blockSize)
	for i := range extents {
		copy(content[2*i*blockSize:], noise(uint64(i), blockSize))
	}
	put(t, w, "fragments", content)
	finish(t, w, f)
	dir, _ := ext4test.Mount(t, f.Name(), "ro")
	got, err := os.ReadFile(filepath.Join(dir, "fragments"))
	must(t, err)
	if !bytes.Equal(got, content) {
		t.Error("content differs")
	}
}

// TestMaximumSize has a file of the largest size, one hole, and refuses one byte more.
func TestMaximumSize(t *testing.T) {
	w, _ := newImage(t, Options{})
	const largest = (1<<32 - 1) * blockSize
	if err := w.Create("large", Header{Mode: modeRegular, Size: largest + 1}); !errors.Is(err, ErrTooBig) {
		t.Errorf("%v", err)
	}
	if err := w.Create("negative", Header{Mode: modeRegular, Size: -1}); !errors.Is(err, ErrTooBig) {
		t.Errorf("%v", err)
	}
}

// TestMemory makes an image of 300,000 entries in less than 64 MiB.
func TestMemory(t *testing.T) {
	const entries = 300_000
	w, f := newImage(t, Options{})
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	data := noise(1, 5000)
	for i := range entries {
		name := fmt.Sprintf("dir%d/subdir%d/some-file-%d.txt", i/1000, i/30, i)
		must(t, w.Create(name, Header{Mode: modeRegular | 0o644, Size: int64(len(data)), ModTime: epoch}))
		_, err := w.Write(data)
		must(t, err)
	}
	if _, err := w.Finish(); err != nil {
		t.Fatal(err)
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	held := int64(after.HeapAlloc) - int64(before.HeapAlloc)
	t.Logf("%d MiB held for %d entries, %d bytes each", held>>20, entries, held/entries)
	if held > 64<<20 {
		t.Errorf("%d bytes held", held)
	}
	runtime.KeepAlive(w)
	ext4test.Check(t, f.Name())
}
