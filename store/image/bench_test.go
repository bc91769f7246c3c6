package image

import (
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/klauspost/compress/gzip"

	"banger/testdata/assets"
)

// benchTar is a real tree to import: BANGER_BENCH_TAR names a tar, else Debian's is taken.
func benchTar(b *testing.B) string {
	b.Helper()
	if name := os.Getenv("BANGER_BENCH_TAR"); name != "" {
		return name
	}
	return assets.File(b, "debian.tar")
}

// BenchmarkImport compares an import with the work that nobody can avoid (decompressing the
// archive, or writing as many bytes), and with unpacking and mkfs.ext4 -d. All of them sync.
func BenchmarkImport(b *testing.B) {
	plain, dir := benchTar(b), b.TempDir()
	packed, dst := filepath.Join(dir, "tar.gz"), filepath.Join(dir, "image")
	gzipFile(b, plain, packed)
	info, err := os.Stat(plain)
	if err != nil {
		b.Fatal(err)
	}
	run := func(name string, f func() error) {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(info.Size())
			for b.Loop() {
				if err := f(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
	run("gunzip", func() error {
		return withFile(packed, func(f *os.File) error {
			z, err := gzip.NewReader(f)
			if err != nil {
				return err
			}
			_, err = io.Copy(io.Discard, z)
			return err
		})
	})
	run("write", func() error {
		defer os.Remove(dst)
		return withFile(plain, func(f *os.File) error {
			out, err := os.OpenFile(dst, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
			if err != nil {
				return err
			}
			defer out.Close()
			if _, err := io.CopyBuffer(struct{ io.Writer }{out}, struct{ io.Reader }{f}, make([]byte, 1<<20)); err != nil {
				return err
			}
			return out.Sync()
		})
	})
	for name, path := range map[string]string{"import-tar": plain, "import-gzip": packed} {
		run(name, func() error {
			defer os.Remove(dst)
			return withFile(path, func(f *os.File) error {
				src, err := FromFile(f)
				if err != nil {
					return err
				}
				_, err = Import(b.Context(), src, dst, Options{})
				return err
			})
		})
	}
	run("mkfs", func() error {
		defer os.Remove(dst)
		defer os.RemoveAll(dir + "/tree")
		return exec.Command("sh", "-c", `mkdir "$0/tree" && tar -C "$0/tree" -xpf "$0/tar.gz" && mkfs.ext4 -q -d "$0/tree" "$0/image" "$1k" && sync "$0/image"`,
			dir, strconv.FormatInt(info.Size()*3/2>>10+128<<10, 10)).Run()
	})
}

func withFile(path string, f func(f *os.File) error) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	return f(file)
}

func gzipFile(b *testing.B, from, to string) {
	b.Helper()
	err := withFile(from, func(f *os.File) error {
		out, err := os.Create(to)
		if err != nil {
			return err
		}
		defer out.Close()
		z := gzip.NewWriter(out)
		if _, err := io.Copy(z, f); err != nil {
			return err
		}
		return z.Close()
	})
	if err != nil {
		b.Fatal(err)
	}
}
