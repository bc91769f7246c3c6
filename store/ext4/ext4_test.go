package ext4

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"banger/store/ext4/ext4test"
)

// newImage makes a Writer on a file that is removed with the test.
func newImage(t testing.TB, opts Options) (*Writer, *os.File) {
	t.Helper()
	f, err := os.OpenFile(filepath.Join(t.TempDir(), "image"), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	w, err := NewWriter(f, opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		w.Abort()
		f.Close()
	})
	return w, f
}

// finish ends the image and lets e2fsck look at it.
func finish(t testing.TB, w *Writer, f *os.File) Stats {
	t.Helper()
	s, err := w.Finish()
	if err != nil {
		t.Fatal(err)
	}
	ext4test.Check(t, f.Name())
	return s
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

var epoch = time.Unix(1700000000, 123456789)

func put(t testing.TB, w *Writer, name string, data []byte) {
	t.Helper()
	must(t, w.Create(name, Header{Mode: modeRegular | 0o644, Size: int64(len(data)), ModTime: epoch}))
	if _, err := w.Write(data); err != nil {
		t.Fatal(err)
	}
}

// noise is n bytes without a block of zeroes.
func noise(seed uint64, n int) []byte {
	p := make([]byte, n)
	rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8), byte(seed >> 16), 1}).Read(p)
	return p
}

// TestNamesAreBounded pretends that there is a GiB of names already.
func TestNamesAreBounded(t *testing.T) {
	for name, do := range map[string]func(w *Writer) error{
		"file":   func(w *Writer) error { return w.Create("file", Header{Mode: modeRegular}) },
		"parent": func(w *Writer) error { return w.Create("dir/a/b", Header{Mode: modeRegular}) },
		"link":   func(w *Writer) error { return w.Link("dir/old", "link") },
		"target": func(w *Writer) error { return w.Create("dir/old", Header{Mode: modeSymlink, Target: "to"}) },
	} {
		w, _ := newImage(t, Options{})
		must(t, w.Create("dir/old", Header{Mode: modeRegular}))
		for len(w.tree.names.chunks) <= maxArena/arenaChunk {
			w.tree.names.chunks = append(w.tree.names.chunks, nil)
		}
		if err := do(w); !errors.Is(err, ErrTooBig) {
			t.Errorf("%s: error is %v, want %v", name, err, ErrTooBig)
		}
		must(t, w.Create("dir", Header{Mode: modeDir | 0o755})) // no new name
	}
}

func TestEmptyImageIsClean(t *testing.T) {
	w, f := newImage(t, Options{Label: "empty"})
	s := finish(t, w, f)
	if s.SizeBytes != 128<<20 || s.Inodes != 11 {
		t.Errorf("got %+v", s)
	}
}

func TestSizes(t *testing.T) {
	for _, c := range []struct{ size, most int64 }{
		{16 << 20, 0}, {100<<20 + 5000, 0}, {128 << 20, 0}, {129 << 20, 0}, {130 << 20, 0}, {256 << 20, 0}, {1 << 30, 0},
		{8<<30 + 4096, 0}, {9 << 30, 0}, {100 << 30, 0}, {2 << 40, 0},
		{16 << 20, 1}, {129 << 20, 1}, {8 << 30, 8 << 30}, {8<<30 + 4096, 1 << 30}, {10 << 30, 80 << 30},
		{100 << 30, 100<<30 + 1}, {2 << 40, 1}, {1 << 30, 1 << 50},
	} {
		t.Run(fmt.Sprintf("%d of %d", c.size, c.most), func(t *testing.T) {
			size := c.size
			if size > 1<<40 && testing.Short() {
				t.Skip("e2fsck of 2 TiB takes seconds")
			}
			w, f := newImage(t, Options{SizeBytes: size, MaxBytes: c.most})
			put(t, w, "a/b/c", noise(1, 3<<20+17))
			s := finish(t, w, f)
			if s.SizeBytes > size || s.SizeBytes < size-(1+maxDescBlocks+minTailBlocks+1)*blockSize {
				t.Errorf("file system of %d bytes, want %d", s.SizeBytes, size)
			}
		})
	}
	_, err := NewWriter(nil, Options{SizeBytes: 2<<40 + 1<<30})
	if !errors.Is(err, ErrTooBig) {
		t.Errorf("more than 2 TiB: %v", err)
	}
	_, err = NewWriter(nil, Options{SizeBytes: 1 << 20})
	if !errors.Is(err, ErrNoSpace) {
		t.Errorf("1 MiB: %v", err)
	}
}

func TestFullIsAnError(t *testing.T) {
	w, _ := newImage(t, Options{SizeBytes: 16 << 20})
	err := w.Create("big", Header{Mode: modeRegular, Size: 20 << 20})
	if err == nil {
		_, err = io.Copy(w, bytes.NewReader(noise(1, 20<<20)))
	}
	if !errors.Is(err, ErrNoSpace) {
		t.Errorf("got %v", err)
	}
	w, _ = newImage(t, Options{SizeBytes: 16 << 20})
	for i := range 5000 {
		must(t, w.Create(fmt.Sprint(i), Header{Mode: modeRegular}))
	}
	if _, err = w.Finish(); err != nil {
		t.Errorf("5000 empty files: %v", err)
	}
	w, _ = newImage(t, Options{SizeBytes: 16 << 20})
	for i := range 40000 {
		must(t, w.Create(fmt.Sprint(i), Header{Mode: modeRegular}))
	}
	if _, err = w.Finish(); !errors.Is(err, ErrNoSpace) {
		t.Errorf("40000 inodes in one group: %v", err)
	}
}

// build makes a tree with one of everything.
func build(t testing.TB, w *Writer) {
	must(t, w.Create("/", Header{Mode: modeDir | 0o751, UID: 3, GID: 4, ModTime: epoch}))
	put(t, w, "./etc/hostname", []byte("banger\n"))
	put(t, w, "usr/bin/big", noise(2, 5<<20+123))
	put(t, w, "usr/bin/empty", nil)
	must(t, w.Create("usr/bin/sh", Header{Mode: modeSymlink | 0o777, Target: "big", ModTime: epoch}))
	must(t, w.Create("usr/long", Header{Mode: modeSymlink | 0o777, Target: strings.Repeat("x/", 1000), ModTime: epoch}))
	must(t, w.Create("usr/l59", Header{Mode: modeSymlink | 0o777, Target: strings.Repeat("y", 59), ModTime: epoch}))
	must(t, w.Create("usr/l60", Header{Mode: modeSymlink | 0o777, Target: strings.Repeat("z", 60), ModTime: epoch}))
	must(t, w.Create("bin", Header{Mode: modeSymlink | 0o777, Target: "/usr/bin", ModTime: epoch}))
	put(t, w, "bin/through", []byte("in usr/bin"))
	must(t, w.Link("etc/hostname", "etc/mailname"))
	must(t, w.Link("usr/bin/sh", "usr/bin/bash"))
	must(t, w.Create("dev/null", Header{Mode: modeChar | 0o666, Major: 1, Minor: 3, ModTime: epoch}))
	must(t, w.Create("dev/nvme", Header{Mode: modeBlock | 0o660, Major: 259, Minor: 70000, ModTime: epoch}))
	must(t, w.Create("dev/fifo", Header{Mode: modeFIFO | 0o600, ModTime: epoch}))
	must(t, w.Create("dev/sock", Header{Mode: modeSocket | 0o600, ModTime: epoch}))
	must(t, w.Create("tmp", Header{Mode: modeDir | 0o1777, ModTime: epoch}))
	must(t, w.Create("usr/bin/su", Header{Mode: modeRegular | 0o4755, UID: 1<<32 - 1, GID: 1 << 31, ModTime: epoch}))
	holes := noise(3, 60<<12)
	for i := 0; i < 60; i += 3 {
		clear(holes[i<<12 : (i+1)<<12])
	}
	put(t, w, "holes", holes)
	put(t, w, "zeroes", make([]byte, 1<<20+1))
	must(t, w.Create("attrs", Header{Mode: modeRegular | 0o644, Size: 3, ModTime: epoch, Xattrs: map[string][]byte{
		"user.small":          []byte("v"),
		"user.large":          noise(4, 3000),
		"security.capability": {1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0},
		"trusted.empty":       {},
	}}))
	_, err := w.Write([]byte("abc"))
	must(t, err)
	must(t, w.Create("tmp", Header{Mode: modeDir | 0o1770, ModTime: epoch.Add(time.Hour)}))
}

func TestTreeIsClean(t *testing.T) {
	w, f := newImage(t, Options{SizeBytes: 300 << 20})
	build(t, w)
	finish(t, w, f)
}

func TestSameInputSameBytes(t *testing.T) {
	var sums [2][32]byte
	for i := range sums {
		w, f := newImage(t, Options{SizeBytes: 200 << 20})
		build(t, w)
		w.NextLayer()
		must(t, w.Remove("usr/bin/big"))
		finish(t, w, f)
		h := sha256.New()
		f.Seek(0, io.SeekStart)
		io.Copy(h, f)
		h.Sum(sums[i][:0])
	}
	if sums[0] != sums[1] {
		t.Error("two images of the same input differ")
	}
}

func TestBadNames(t *testing.T) {
	w, f := newImage(t, Options{})
	file := Header{Mode: modeRegular | 0o644}
	put(t, w, "file", nil)
	must(t, w.Create("loop", Header{Mode: modeSymlink, Target: "loop"}))
	for _, c := range []struct {
		name string
		want error
	}{
		{"../x", ErrName},
		{"a/../../x", ErrName},
		{"a/..", ErrName},
		{strings.Repeat("n", 256), ErrName},
		{"a\x00b", ErrName},
		{"file/x", ErrNotDir},
		{"loop/x", ErrLoop},
		{"", ErrNotDir},
		{"lost+found", ErrNotDir},
	} {
		if err := w.Create(c.name, file); !errors.Is(err, c.want) {
			t.Errorf("create %.20q: %v, want %v", c.name, err, c.want)
		}
	}
	if err := w.Link("missing", "x"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("link of nothing: %v", err)
	}
	must(t, w.Create("dir", Header{Mode: modeDir}))
	if err := w.Link("dir", "x"); !errors.Is(err, ErrLinks) {
		t.Errorf("link of directory: %v", err)
	}
	put(t, w, "dir/inner", nil)
	if err := w.Link("dir/inner", "dir"); !errors.Is(err, ErrLinks) {
		t.Errorf("link over own directory: %v", err)
	}
	finish(t, w, f)
}
