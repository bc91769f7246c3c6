package image

import (
	"bytes"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/klauspost/compress/gzip"
)

// benchTree is a real tree to be imported: BANGER_BENCH_TAR names a tar, else the host's
// documentation and programs are taken.
func benchTar(b *testing.B) []byte {
	b.Helper()
	if name := os.Getenv("BANGER_BENCH_TAR"); name != "" {
		data, err := os.ReadFile(name)
		if err != nil {
			b.Fatal(err)
		}
		return data
	}
	data, err := exec.Command("tar", "-C", "/", "--sort=name", "-cf", "-", "usr/share", "usr/bin").Output()
	if err != nil {
		b.Skip("tar of the host's tree: ", err)
	}
	return data
}

// BenchmarkImport compares an import with the work that cannot be avoided: decompressing
// the archive, and writing as many bytes.
func BenchmarkImport(b *testing.B) {
	plain := benchTar(b)
	var packed bytes.Buffer
	z, _ := gzip.NewWriterLevel(&packed, 6)
	z.Write(plain)
	z.Close()
	dst := filepath.Join(b.TempDir(), "image")

	b.Run("gunzip", func(b *testing.B) {
		b.SetBytes(int64(len(plain)))
		for b.Loop() {
			z, err := gzip.NewReader(bytes.NewReader(packed.Bytes()))
			if err != nil {
				b.Fatal(err)
			}
			io.Copy(io.Discard, z)
		}
	})
	b.Run("write", func(b *testing.B) {
		b.SetBytes(int64(len(plain)))
		for b.Loop() {
			f, err := os.Create(dst)
			if err != nil {
				b.Fatal(err)
			}
			io.Copy(f, struct{ io.Reader }{bytes.NewReader(plain)})
			f.Sync()
			f.Close()
			os.Remove(dst)
		}
	})
	for name, data := range map[string][]byte{"plain": plain, "gzip": packed.Bytes()} {
		b.Run("import-"+name, func(b *testing.B) {
			b.SetBytes(int64(len(plain)))
			for b.Loop() {
				if _, err := Import(b.Context(), FromReader(bytes.NewReader(data)), dst, Options{}); err != nil {
					b.Fatal(err)
				}
				os.Remove(dst)
			}
		})
	}
}
