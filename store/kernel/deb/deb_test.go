package deb

import (
	"bytes"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"banger/store/kernel/kerneltest"
)

// list walks over a package and returns "name content" of every file.
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

var want = []string{"boot/vmlinuz-6.1 kernel", "lib/modules/6.1/modules.builtin list"}

func sample() []byte {
	return kerneltest.Deb(kerneltest.File{Name: "boot/vmlinuz-6.1", Data: []byte("kernel")},
		kerneltest.File{Name: "lib/modules/6.1/modules.builtin", Data: []byte("list")})
}

func TestWalk(t *testing.T) {
	if got, err := list(sample()); err != nil || !slices.Equal(got, want) {
		t.Errorf("got %q, error %v", got, err)
	}
}

// TestWalkReadsWhatDpkgWrote asks the program that makes such packages.
func TestWalkReadsWhatDpkgWrote(t *testing.T) {
	if _, err := exec.LookPath("dpkg-deb"); err != nil {
		t.Skip("no dpkg-deb")
	}
	tree := t.TempDir()
	for name, text := range map[string]string{
		"boot/vmlinuz-6.1": "kernel", "lib/modules/6.1/modules.builtin": "list",
		"DEBIAN/control": "Package: k\nVersion: 1\nArchitecture: all\nMaintainer: n <n@example.org>\nDescription: d\n",
	} {
		p := filepath.Join(tree, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, how := range []string{"xz", "zstd", "gzip", "none"} {
		t.Run(how, func(t *testing.T) {
			out := filepath.Join(t.TempDir(), "k.deb")
			if msg, err := exec.CommandContext(t.Context(), "dpkg-deb", "-Z"+how, "-b", tree, out).CombinedOutput(); err != nil {
				t.Skipf("dpkg-deb -Z%s: %v\n%s", how, err, msg)
			}
			data, err := os.ReadFile(out)
			if err != nil {
				t.Fatal(err)
			}
			if got, err := list(data); err != nil || !slices.Equal(got, want) {
				t.Errorf("got %q, error %v", got, err)
			}
		})
	}
}

func TestWalkRefuses(t *testing.T) {
	good := sample()
	negative := bytes.Replace(good, []byte("4         `"), []byte("-4        `"), 1)
	for name, data := range map[string][]byte{
		"nothing": nil, "text": bytes.Repeat([]byte("text "), 50), "no members": good[:8],
		"no data": good[:8+60+4], "cut off": good[:len(good)-40], "negative size": negative,
		"long name": kerneltest.Deb(kerneltest.File{Name: strings.Repeat("x/", maxName/2) + "x.ko"}),
	} {
		if _, err := list(data); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: got error %v, want %v", name, err, ErrMalformed)
		}
	}
}

func TestWalkEndsWithTheCallersError(t *testing.T) {
	stop, calls := errors.New("stop"), 0
	err := Walk(bytes.NewReader(sample()), func(string, int64, io.Reader) error { calls++; return stop })
	if !errors.Is(err, stop) || errors.Is(err, ErrMalformed) || calls != 1 {
		t.Errorf("got error %v after %d calls", err, calls)
	}
}

func TestNamesStayInside(t *testing.T) {
	got, err := list(kerneltest.Deb(kerneltest.File{Name: "../../boot/../etc/passwd"}, kerneltest.File{Name: "/boot//./x"}))
	if want := []string{"etc/passwd ", "boot/x "}; err != nil || !slices.Equal(got, want) {
		t.Errorf("got %q, error %v", got, err)
	}
}

// FuzzWalk checks that no package makes the reader panic.
func FuzzWalk(f *testing.F) {
	f.Add(sample())
	f.Fuzz(func(t *testing.T, data []byte) {
		Walk(bytes.NewReader(data), func(name string, _ int64, r io.Reader) error {
			if filepath.IsAbs(name) || !filepath.IsLocal(name) && name != "" {
				t.Errorf("name %q", name)
			}
			_, err := io.Copy(io.Discard, io.LimitReader(r, 1<<20))
			return err
		})
	})
}
