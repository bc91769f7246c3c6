package rpm

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

// The packages in testdata were made of sample.spec by
// rpmbuild -bb --define "_binary_payload w7.xzdio" (w9.gzdio, w3.zstdio, w9.bzdio).

func list(data []byte) ([]string, error) {
	var got []string
	err := Walk(bytes.NewReader(data), func(name string, size int64, r io.Reader) error {
		content, err := io.ReadAll(r)
		if int64(len(content)) != size {
			return errors.New("size differs from content")
		}
		got = append(got, name+" "+string(content))
		return err
	})
	return got, err
}

func sample(t testing.TB, how string) []byte {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("testdata", how+".rpm"))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func TestWalkReadsWhatRpmbuildWrote(t *testing.T) {
	want := []string{"lib/modules/6.1/modules.builtin list", "lib/modules/6.1/vmlinuz kernel"}
	for _, how := range []string{"gzip", "xz", "zstd", "bzip2"} {
		if got, err := list(sample(t, how)); err != nil || !slices.Equal(got, want) {
			t.Errorf("%s: got %q, error %v", how, got, err)
		}
	}
}

func TestWalkRefuses(t *testing.T) {
	good := sample(t, "gzip")
	huge := bytes.Clone(good)
	copy(huge[leadSize+12:], []byte{0x7f, 0xff, 0xff, 0xff})
	for name, data := range map[string][]byte{
		"nothing": nil, "text": bytes.Repeat([]byte("text "), 50), "only a lead": good[:leadSize],
		"in the signature": good[:leadSize+40], "in the header": good[:len(good)/2], "in the payload": good[:len(good)-20],
		"signature of 2 GiB": huge,
	} {
		if _, err := list(data); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: got error %v, want %v", name, err, ErrMalformed)
		}
	}
}

func TestWalkEndsWithTheCallersError(t *testing.T) {
	stop := errors.New("stop")
	err := Walk(bytes.NewReader(sample(t, "xz")), func(string, int64, io.Reader) error { return stop })
	if !errors.Is(err, stop) || errors.Is(err, ErrMalformed) {
		t.Errorf("got error %v", err)
	}
}

// FuzzWalk checks that no package makes the reader panic.
func FuzzWalk(f *testing.F) {
	f.Add(sample(f, "gzip"))
	f.Add(sample(f, "zstd"))
	f.Fuzz(func(t *testing.T, data []byte) {
		Walk(bytes.NewReader(data), func(name string, _ int64, r io.Reader) error {
			if name != "" && !filepath.IsLocal(name) {
				t.Errorf("name %q", name)
			}
			_, err := io.Copy(io.Discard, io.LimitReader(r, 1<<20))
			return err
		})
	})
}
