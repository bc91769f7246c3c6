package bzimage

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"math"
	"testing"

	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"
	"github.com/ulikunitz/xz"
	"github.com/ulikunitz/xz/lzma"

	"banger/store/kernel/decompress"
	"banger/store/kernel/kerneltest"
)

const version = "6.1.0-test (builder@host) #1 SMP"

// pack compresses data and appends its size, as the kernel's build does for all but gzip.
func pack(t testing.TB, format decompress.Format, data []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	var w io.WriteCloser
	var err error
	switch format {
	case decompress.None:
		return data
	case decompress.Gzip:
		w = gzip.NewWriter(&out)
	case decompress.XZ:
		w, err = xz.NewWriter(&out)
	case decompress.LZMA:
		w, err = lzma.NewWriter(&out)
	case decompress.Zstd:
		w, err = zstd.NewWriter(&out)
	case decompress.LZ4:
		lw := lz4.NewWriter(&out)
		err = lw.Apply(lz4.LegacyOption(true))
		w = lw
	}
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if format == decompress.Gzip {
		return out.Bytes()
	}
	return binary.LittleEndian.AppendUint32(out.Bytes(), uint32(len(data)))
}

func kernel() []byte {
	return append([]byte("\x7fELF"), bytes.Repeat([]byte("not quite a kernel "), 20000)...)
}

func TestExtract(t *testing.T) {
	want := kernel()
	for _, format := range []decompress.Format{
		decompress.None, decompress.Gzip, decompress.XZ, decompress.LZMA, decompress.Zstd, decompress.LZ4,
	} {
		t.Run(string("packed as "+format), func(t *testing.T) {
			data := kerneltest.BzImage(version, pack(t, format, want))
			im, err := Open(bytes.NewReader(data), int64(len(data)))
			if err != nil {
				t.Fatal(err)
			}
			if im.Version != version {
				t.Errorf("version is %q, want %q", im.Version, version)
			}
			var got bytes.Buffer
			n, how, err := im.Extract(t.Context(), &got)
			if err != nil {
				t.Fatal(err)
			}
			if how != format || n != int64(len(want)) || !bytes.Equal(got.Bytes(), want) {
				t.Errorf("got %d bytes packed as %q, want %d as %q", n, how, len(want), format)
			}
		})
	}
}

func TestExtractRefuses(t *testing.T) {
	good := pack(t, decompress.Zstd, kernel())
	sized := func(n int) []byte {
		return binary.LittleEndian.AppendUint32(bytes.Clone(good[:len(good)-4]), uint32(n))
	}
	for _, c := range []struct {
		name    string
		payload []byte
		want    error
	}{
		{"more than it says", sized(1000), decompress.ErrTooLarge},
		{"less than it says", sized(len(kernel()) + 1), ErrMalformed},
		{"bomb", sized(math.MaxUint32), ErrMalformed},
		{"lzo", append([]byte{0x89, 'L', 'Z', 'O'}, good...), decompress.ErrUnsupported},
	} {
		t.Run(c.name, func(t *testing.T) {
			data := kerneltest.BzImage(version, c.payload)
			im, err := Open(bytes.NewReader(data), int64(len(data)))
			if err != nil {
				t.Fatal(err)
			}
			if _, _, err := im.Extract(t.Context(), io.Discard); !errors.Is(err, c.want) {
				t.Errorf("got error %v, want %v", err, c.want)
			}
		})
	}
	t.Run("cancelled", func(t *testing.T) {
		data := kerneltest.BzImage(version, good)
		im, err := Open(bytes.NewReader(data), int64(len(data)))
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, _, err := im.Extract(ctx, io.Discard); !errors.Is(err, context.Canceled) {
			t.Errorf("got error %v, want %v", err, context.Canceled)
		}
	})
}

func TestOpenRefuses(t *testing.T) {
	good := kerneltest.BzImage(version, pack(t, decompress.Gzip, kernel()))
	change := func(at int, bytes ...byte) []byte {
		data := append([]byte(nil), good...)
		copy(data[at:], bytes)
		return data
	}
	for _, c := range []struct {
		name string
		data []byte
		want error
	}{
		{"nothing", nil, ErrNotBzImage},
		{"text", bytes.Repeat([]byte("text "), 500), ErrNotBzImage},
		{"only a header", good[:0x210], ErrMalformed},
		{"cut off", good[:len(good)-100], ErrMalformed},
		{"old protocol", change(kerneltest.ProtocolAt, 3, 2), ErrMalformed},
		{"32 bits", change(kerneltest.LoadFlagsAt, 0, 0), ErrNot64Bit},
		{"payload beyond the end", change(kerneltest.PayloadOffsetAt, 0xff, 0xff, 0xff, 0xff), ErrMalformed},
		{"no payload", change(kerneltest.PayloadLengthAt, 0, 0, 0, 0), ErrMalformed},
		{"escape sequence as version", change(kerneltest.VersionText, 0x1b, '[', '2', 'J'), ErrMalformed},
	} {
		t.Run(c.name, func(t *testing.T) {
			if _, err := Open(bytes.NewReader(c.data), int64(len(c.data))); !errors.Is(err, c.want) {
				t.Errorf("got error %v, want %v", err, c.want)
			}
		})
	}
}

// FuzzImage checks that no image makes the reader panic, or write more than the
// bound that the image itself states.
func FuzzImage(f *testing.F) {
	for _, format := range []decompress.Format{decompress.None, decompress.Gzip, decompress.XZ, decompress.Zstd, decompress.LZ4, decompress.LZMA} {
		f.Add(kerneltest.BzImage(version, pack(f, format, []byte("\x7fELF and so on"))))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		im, err := Open(bytes.NewReader(data), int64(len(data)))
		if err != nil {
			return
		}
		n, _, err := im.Extract(t.Context(), &limited{16 << 20})
		if err == nil && n > maxKernelBytes {
			t.Errorf("%d bytes came out", n)
		}
	})
}

// limited is a writer that fails for writes beyond a size, so that the fuzzer does
// not spend its time on bombs.
type limited struct{ left int }

func (l *limited) Write(p []byte) (int, error) {
	if l.left -= len(p); l.left < 0 {
		return 0, io.ErrShortWrite
	}
	return len(p), nil
}
