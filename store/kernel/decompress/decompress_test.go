package decompress

import (
	"bytes"
	"errors"
	"io"
	"os/exec"
	"strings"
	"testing"
)

// TestNewReader reads what the usual programs write.
func TestNewReader(t *testing.T) {
	want := strings.Repeat("many words, few of them new. ", 5000)
	for _, c := range []struct {
		format  Format
		command string
	}{
		{None, "cat"},
		{Gzip, "gzip -c"},
		{XZ, "xz -c"},
		{XZ, "xz -c --check=crc32 --x86 --lzma2=dict=32MiB"}, // as the kernel's build does
		{LZMA, "xz -c --format=lzma"},
		{Zstd, "zstd -c --long=27"},
		{LZ4, "lz4 -c -l"},
		{LZ4, "lz4 -c"},
		{Bzip2, "bzip2 -c"},
	} {
		t.Run(c.command, func(t *testing.T) {
			args := strings.Fields(c.command)
			if _, err := exec.LookPath(args[0]); err != nil {
				t.Skip("no " + args[0])
			}
			cmd := exec.CommandContext(t.Context(), args[0], args[1:]...)
			cmd.Stdin = strings.NewReader(want)
			packed, err := cmd.Output()
			if err != nil {
				t.Fatal(err)
			}
			r, format, err := NewReader(bytes.NewReader(packed))
			if err != nil {
				t.Fatal(err)
			}
			defer r.Close()
			got, err := io.ReadAll(r)
			if err != nil {
				t.Fatal(err)
			}
			if format != c.format || string(got) != want {
				t.Errorf("got %d bytes of %q, want %d of %q", len(got), format, len(want), c.format)
			}
			if c.format == None {
				return
			}
			cut, _, err := NewReader(bytes.NewReader(packed[:len(packed)/2]))
			if err == nil {
				_, err = io.Copy(io.Discard, cut)
			}
			if err == nil {
				t.Error("half of a stream is read without an error")
			}
		})
	}
}

func TestNewReaderRefusesLZO(t *testing.T) {
	if _, format, err := NewReader(strings.NewReader("\x89LZO and so on")); !errors.Is(err, ErrUnsupported) || format != LZO {
		t.Errorf("got format %q and error %v", format, err)
	}
}

func TestCopyStopsAtTheLimit(t *testing.T) {
	for _, c := range []struct {
		limit int64
		want  error
	}{{9, ErrTooLarge}, {10, nil}, {11, nil}} {
		var out bytes.Buffer
		n, err := Copy(&out, strings.NewReader("0123456789"), c.limit)
		if !errors.Is(err, c.want) || n != min(c.limit, 10) || int64(out.Len()) != n {
			t.Errorf("limit %d: %d bytes, error %v", c.limit, n, err)
		}
	}
}
