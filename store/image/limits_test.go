package image

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"golang.org/x/sys/unix"

	"banger/store/ext4/ext4test"
)

// packed compresses what fill writes.
func packed(t testing.TB, open func(w io.Writer) io.WriteCloser, fill func(w io.Writer)) []byte {
	t.Helper()
	var b bytes.Buffer
	z := open(&b)
	fill(z)
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func gzipTo(w io.Writer) io.WriteCloser { return gzip.NewWriter(w) }

func zstdTo(w io.Writer) io.WriteCloser {
	z, err := zstd.NewWriter(w)
	if err != nil {
		panic(err)
	}
	return z
}

func TestBombs(t *testing.T) {
	zeroes := make([]byte, 1<<20)
	tarOf := func(size int64) func(w io.Writer) {
		return func(w io.Writer) {
			tw := tar.NewWriter(w)
			tw.WriteHeader(&tar.Header{Name: "zeroes", Size: size, Mode: 0o600})
			for n := int64(0); n < size; n += 1 << 20 {
				tw.Write(zeroes)
			}
			tw.Close()
		}
	}
	bomb := packed(t, zstdTo, tarOf(1<<30))
	strict := Options{Limits: Limits{RatioFree: 64 << 20}}
	t.Run("ratio", func(t *testing.T) {
		fails(t, FromReader(bytes.NewReader(bomb)), strict, ErrTooBig)
	})
	t.Run("ratio in a layer", func(t *testing.T) {
		p := ociLayout(t, unpacked, makeTar(t, file("a", "b")))
		m := p.manifest(t)
		m.Layers[0].Digest, m.Layers[0].Size = p.addBlob(bomb), int64(len(bomb))
		p.setManifest(t, m)
		fails(t, FromDir(p.dir()), strict, ErrTooBig)
	})
	t.Run("gzip within the ratio", func(t *testing.T) {
		gz := packed(t, gzipTo, tarOf(80<<20))
		_, info := importImage(t, FromReader(bytes.NewReader(gz)), Options{Limits: Limits{Ratio: 2000, RatioFree: 64 << 20}})
		if info.ContentBytes != 80<<20 {
			t.Errorf("got %+v", info)
		}
	})
	t.Run("announced size", func(t *testing.T) {
		var b bytes.Buffer
		tar.NewWriter(&b).WriteHeader(&tar.Header{Name: "big", Size: 1 << 60, Mode: 0o600})
		fails(t, FromReader(&b), Options{}, ErrTooBig)
	})
	t.Run("sum of sizes", func(t *testing.T) {
		data := makeTar(t, file("a", strings.Repeat("x", 600)), file("b", strings.Repeat("x", 600)))
		fails(t, FromReader(bytes.NewReader(data)), Options{Limits: Limits{Bytes: 1000}}, ErrTooBig)
	})
	t.Run("sparse file of 8 EiB", func(t *testing.T) {
		fails(t, FromReader(bytes.NewReader(gnuSparse(1<<63-1))), Options{}, ErrTooBig)
	})
	t.Run("entries", func(t *testing.T) {
		data := makeTar(t, file("a", ""), file("b", ""), file("c", ""))
		fails(t, FromReader(bytes.NewReader(data)), Options{Limits: Limits{Entries: 2}}, ErrTooBig)
	})
	t.Run("parents without an entry", func(t *testing.T) {
		data := makeTar(t, file("a/b/c", ""), file("d/e/f", ""))
		importImage(t, FromReader(bytes.NewReader(data)), Options{Limits: Limits{Entries: 6}})
		fails(t, FromReader(bytes.NewReader(data)), Options{Limits: Limits{Entries: 5}}, ErrTooBig)
	})
	t.Run("layers", func(t *testing.T) {
		p := ociLayout(t, unpacked, makeTar(t, file("a", "")), makeTar(t, file("b", "")))
		fails(t, FromDir(p.dir()), Options{Limits: Limits{Layers: 1}}, ErrTooBig)
	})
	t.Run("endless stream after the end", func(t *testing.T) {
		endless := io.MultiReader(bytes.NewReader(makeTar(t, file("a", "b"))), endlessZeroes{})
		fails(t, FromReader(endless), Options{}, ErrCorrupt)
	})
	t.Run("endless archive", func(t *testing.T) {
		var b bytes.Buffer
		tar.NewWriter(&b).WriteHeader(&tar.Header{Name: "oci-layout", Size: 1 << 40, Mode: 0o600})
		fails(t, FromReader(io.MultiReader(&b, endlessZeroes{})), Options{}, ErrTooBig)
	})
	t.Run("does not fit", func(t *testing.T) {
		var data bytes.Buffer
		tarOf(20 << 20)(&data)
		random := bytes.ReplaceAll(data.Bytes(), zeroes[:512], bytes.Repeat([]byte("noise..."), 64))
		copy(random, data.Bytes()[:512])
		fails(t, FromReader(bytes.NewReader(random)), Options{SizeBytes: 16 << 20}, ErrTooBig)
	})
}

// By default a file of some GiB that packs to nothing is no bomb, and one that is
// meant to fill the disk is.
func TestDefaultRatio(t *testing.T) {
	if testing.Short() {
		t.Skip("unpacks 13 GiB")
	}
	const gib = 1 << 30
	// Members after one another are one stream: each is packed once.
	zeroes := packed(t, gzipTo, func(w io.Writer) {
		for range 1 << 10 {
			w.Write(make([]byte, 1<<20))
		}
	})
	gzipped := func(files int, gibEach int64) []byte {
		var gz []byte
		for i := range files {
			gz = append(gz, packed(t, gzipTo, func(w io.Writer) {
				tar.NewWriter(w).WriteHeader(&tar.Header{Name: fmt.Sprint("zeroes", i), Size: gibEach * gib, Mode: 0o600})
			})...)
			gz = append(gz, bytes.Repeat(zeroes, int(gibEach))...)
		}
		return append(gz, packed(t, gzipTo, func(w io.Writer) { w.Write(make([]byte, 1024)) })...)
	}
	img, info := importImage(t, FromReader(bytes.NewReader(gzipped(1, 4))), Options{})
	var st unix.Stat_t
	if err := unix.Stat(img, &st); err != nil || info.ContentBytes != 4*gib || st.Blocks > 64<<11 {
		t.Errorf("got %d bytes on %d KiB of the disk, %v", info.ContentBytes, st.Blocks/2, err)
	}
	fails(t, FromReader(bytes.NewReader(gzipped(3, 4))), Options{}, ErrTooBig)           // by the ratio
	fails(t, FromReader(bytes.NewReader(gzipped(1, 4)[:64<<10])), Options{}, ErrCorrupt) // no ratio, but no end either
	fails(t, FromReader(bytes.NewReader(gzipped(1, 1))), Options{Limits: Limits{Bytes: gib - 1}}, ErrTooBig)
}

type endlessZeroes struct{}

func (endlessZeroes) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

// gnuSparse is the header of a GNU sparse file of the given size with no data.
func gnuSparse(size int64) []byte {
	b := make([]byte, 1536)
	copy(b, "sparse")
	copy(b[100:], "0000644\x000000000\x000000000\x0000000000000\x0000000000000\x00")
	b[156] = 'S'
	copy(b[257:], "ustar  \x00")
	copy(b[386:], "00000000000\x0000000000000\x00")
	// The real size, in base 256.
	for i := range 8 {
		b[494-i] = byte(size >> (8 * i))
	}
	b[483] = 0x80
	copy(b[148:], "        ")
	sum := 0
	for _, c := range b[:512] {
		sum += int(c)
	}
	copy(b[148:], fmt.Sprintf("%06o\x00 ", sum))
	return b
}

func TestBrokenInput(t *testing.T) {
	good := makeTar(t, file("a", strings.Repeat("content ", 5000)), file("b", "x"))
	gz := packed(t, gzipTo, func(w io.Writer) { w.Write(good) })
	for name, c := range map[string]struct {
		data []byte
		want error
	}{
		"empty":              {nil, ErrEmpty},
		"empty tar":          {make([]byte, 1024), ErrNoLayers},
		"text":               {[]byte(strings.Repeat("this is no archive\n", 100)), ErrUnknownFormat},
		"cut in header":      {good[:700], ErrCorrupt},
		"cut in content":     {good[:5000], ErrCorrupt},
		"cut between":        {good[:40960+512+100], ErrCorrupt},
		"gzip cut":           {gz[:len(gz)-20], ErrCorrupt},
		"gzip bit":           {flip(gz, len(gz)/2), ErrCorrupt},
		"gzip checksum":      {flip(gz, len(gz)-6), ErrCorrupt},
		"zstd of nothing":    {[]byte("\x28\xb5\x2f\xfd"), ErrCorrupt},
		"xz of nothing":      {[]byte("\xfd7zXZ\x00junk"), ErrCorrupt},
		"header checksum":    {flip(good, 3), ErrUnknownFormat},
		"second header":      {flip(good, 512+40448+3), ErrCorrupt},
		"negative size":      {withSize(t, good, "-0000000001"), ErrUnknownFormat},
		"no image, gzipped":  {packed(t, gzipTo, func(w io.Writer) { io.WriteString(w, strings.Repeat("text ", 1000)) }), ErrUnknownFormat},
		"nothing but zeroes": {append(make([]byte, 1024), flip(good, 1)...), ErrNoLayers},
		"an ext4 image":      {append(make([]byte, 0x438), 0x53, 0xef), ErrUnknownFormat},
		"a Debian package":   {[]byte("!<arch>\ndebian-binary   "), ErrKernel},
		"a program":          {[]byte("\x7fELF\x02\x01\x01"), ErrKernel},
		"a bzImage":          {append(make([]byte, 514), "HdrS"...), ErrKernel},
		"PAX size that lies": {paxLies(t), ErrCorrupt},
	} {
		t.Run(name, func(t *testing.T) {
			fails(t, FromReader(bytes.NewReader(c.data)), Options{}, c.want)
		})
	}
}

func flip(data []byte, at int) []byte {
	d := bytes.Clone(data)
	d[at] ^= 0x40
	return d
}

// withSize puts a size into the first header, and corrects its checksum.
func withSize(t testing.TB, data []byte, size string) []byte {
	d := bytes.Clone(data)
	copy(d[124:], size)
	copy(d[148:], "        ")
	sum := 0
	for _, c := range d[:512] {
		sum += int(c)
	}
	copy(d[148:], fmt.Sprintf("%06o\x00 ", sum))
	return d
}

// paxLies is a tar whose extended header says a larger size than there is content.
func paxLies(t testing.TB) []byte {
	record := "18 size=999999999\n"
	return append(append(makeHeader(t, 'x', "pax", record), makeHeader(t, '0', "file", "short")...), make([]byte, 1024)...)
}

// makeHeader is one entry with its content, of any type.
func makeHeader(t testing.TB, typ byte, name, data string) []byte {
	b := makeTar(t, file(name, data))[:1024]
	b[156] = typ
	return withSize(t, b, fmt.Sprintf("%011o", len(data)))
}

func TestSeveralGzipMembers(t *testing.T) {
	good := makeTar(t, file("a", strings.Repeat("content ", 5000)), file("b", "x"))
	half := len(good) / 2
	gz := packed(t, gzipTo, func(w io.Writer) { w.Write(good[:half]) })
	gz = append(gz, packed(t, gzipTo, func(w io.Writer) { w.Write(good[half:]) })...)
	img, _ := importImage(t, FromReader(bytes.NewReader(gz)), Options{})
	wantContents(t, img, map[string]string{"a": strings.Repeat("content ", 5000), "b": "x"})
}

func TestEveryCompression(t *testing.T) {
	good := makeTar(t, file("a", strings.Repeat("content ", 5000)), file("b", "x"))
	plain := filepath.Join(t.TempDir(), "tar")
	if err := os.WriteFile(plain, good, 0o600); err != nil {
		t.Fatal(err)
	}
	_, want := importImage(t, FromReader(bytes.NewReader(good)), Options{})
	for _, tool := range []string{"gzip -9c", "xz -c", "xz -9ec --check=sha256", "zstd -c", "zstd -19 --ultra -c"} {
		args := append(strings.Fields(tool), plain)
		data, err := exec.Command(args[0], args[1:]...).Output()
		if errors.Is(err, exec.ErrNotFound) {
			t.Logf("%s is missing", args[0])
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		_, got := importImage(t, FromReader(bytes.NewReader(data)), Options{})
		if got.Digest != want.Digest || got.UUID != want.UUID {
			t.Errorf("%s: digest %s, want %s", tool, got.Digest, want.Digest)
		}
	}
}

func TestCancel(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	w.Write(makeTar(t, file("a", "b"))[:600])
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(50*time.Millisecond, cancel)
	dir := t.TempDir()
	src, err := FromFile(r)
	if err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	if _, err := Import(ctx, src, filepath.Join(dir, "image"), Options{}); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	if d := time.Since(start); d > 10*time.Second {
		t.Errorf("took %v", d)
	}
	if left, _ := os.ReadDir(dir); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
}

// TestFullDisk imports to a small file system of its own.
func TestFullDisk(t *testing.T) {
	small := filepath.Join(t.TempDir(), "small")
	if out, err := exec.Command("mkfs.ext4", "-q", small, "16m").CombinedOutput(); err != nil {
		t.Skipf("mkfs.ext4: %v\n%s", err, out)
	}
	dir, unmount := ext4test.Mount(t, small, "")
	defer unmount()
	var before, after unix.Statfs_t
	unix.Statfs(dir, &before)
	noise := make([]byte, 20<<20)
	for i := range noise {
		noise[i] = byte(i*i>>8) | 1
	}
	layer := makeTar(t, file("big", string(noise)))
	for name, src := range map[string]Source{
		"import": FromReader(bytes.NewReader(layer)),
		"spool":  FromReader(bytes.NewReader(ociLayout(t, unpacked, layer).tar(t))),
	} {
		_, err := Import(t.Context(), src, filepath.Join(dir, "image"), Options{})
		if !errors.Is(err, unix.ENOSPC) {
			t.Errorf("%s: %v", name, err)
		}
	}
	unix.Sync()
	unix.Statfs(dir, &after)
	left, _ := os.ReadDir(dir)
	if len(left) != 1 || before.Bfree != after.Bfree { // lost+found
		t.Errorf("left behind: %v, %d blocks", left, before.Bfree-after.Bfree)
	}
}

func TestReplacesOnlyWhenComplete(t *testing.T) {
	dst := filepath.Join(t.TempDir(), "image")
	if err := os.WriteFile(dst, []byte("old"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Import(t.Context(), FromReader(strings.NewReader("junk")), dst, Options{}); err == nil {
		t.Error("no error")
	}
	if data, _ := os.ReadFile(dst); string(data) != "old" {
		t.Errorf("the old image is %q", data)
	}
	if _, err := Import(t.Context(), FromReader(bytes.NewReader(makeTar(t, file("a", "b")))), dst, Options{}); err != nil {
		t.Fatal(err)
	}
	ext4test.Check(t, dst)
}
