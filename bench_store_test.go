package main_test

import (
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"banger/store/disk"
	"banger/store/ext4"
	"banger/testdata/assets"
	"banger/testdata/host"
)

// maxImportMemory is what a daemon that imports may need, in bytes.
const maxImportMemory = 64 << 20

// benchImport compares `image import` with the work that nobody can avoid, and
// with the usual tools. All that write also sync.
func benchImport(b *testing.B, t *table) {
	h := host.New(b, host.Config{Banger: banger(b)})
	b.Cleanup(h.StopDaemons)
	plain := assets.File(b, "debian.tar")
	packed := filepath.Join(h.Dir(), "debian.tar.gz")
	pack(b, plain, packed)
	tree, out := filepath.Join(b.TempDir(), "tree"), filepath.Join(b.TempDir(), "out")

	const turns = 5
	acts := []func() time.Duration{
		func() time.Duration {
			defer h.Must(host.Root, "banger", "image", "delete", "bench")
			return timed(b, func() error { h.Must(host.Root, "banger", "image", "import", "--name", "bench", packed); return nil })
		},
		func() time.Duration { return timed(b, func() error { return gunzip(packed) }) },
		func() time.Duration {
			defer os.Remove(out)
			return timed(b, func() error { return rawWrite(plain, out) })
		},
		func() time.Duration {
			defer os.RemoveAll(tree)
			defer os.Remove(out)
			return timed(b, func() error { return unpackAndMake(packed, tree, out) })
		},
	}
	tool, lacks := buildTar2ext4(b.TempDir())
	if lacks == nil {
		acts = append(acts, func() time.Duration {
			defer os.Remove(out)
			return timed(b, func() error { return tool.convert(packed, out) })
		})
	}
	times := inTurn(turns, acts...)
	floor, what := times[1], "gunzip alone"
	if times[2] > floor {
		floor, what = times[2], "raw write"
	}
	t.compare("image import of a Debian tar.gz", times[0], what, floor, 1.25)
	t.compare("  the same", times[0], "gunzip alone", times[1], 0)
	t.compare("  the same", times[0], "raw write and sync", times[2], 0)
	t.compare("  the same", times[0], "tar -xzp, then mkfs.ext4 -d", times[3], 0)
	if lacks == nil {
		t.compare("  the same", times[0], "gunzip to tar2ext4", times[4], 0)
	} else {
		b.Log(lacks)
		t.add(row{name: "  the same", figure: ms(times[0]), against: "tar2ext4: cannot be built, see above"})
	}

	// The peak of a daemon that has done nothing else.
	h.StopDaemons()
	h.Must(host.Root, "banger", "image", "import", "--name", "bench", packed)
	peak := memory(b, h, "bangerd", "status", "VmHWM:")
	t.add(row{"  peak memory of bangerd", mib(peak), "limit " + mib(maxImportMemory), float64(peak) / maxImportMemory, 1})

	if lacks == nil {
		benchGaps(b, t, h, tool, packed)
	}
}

// pack compresses as gzip does by default.
func pack(b *testing.B, from, to string) {
	b.Helper()
	in, err := os.Open(from)
	if err != nil {
		b.Fatal(err)
	}
	defer in.Close()
	out, err := os.Create(to)
	if err != nil {
		b.Fatal(err)
	}
	z := gzip.NewWriter(out)
	_, err = io.Copy(z, in)
	if err := errors.Join(err, z.Close(), out.Close()); err != nil {
		b.Fatal(err)
	}
}

// gunzip decompresses by the machine's own tool.
func gunzip(file string) error { return exec.Command("gzip", "-dc", file).Run() }

// rawWrite copies through memory, as an import must, not within the kernel.
func rawWrite(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.Create(to)
	if err != nil {
		return err
	}
	defer out.Close()
	if _, err := io.CopyBuffer(struct{ io.Writer }{out}, struct{ io.Reader }{in}, make([]byte, 1<<20)); err != nil {
		return err
	}
	return out.Sync()
}

// unpackAndMake makes an image as one does without banger. It needs root, and
// the tree twice.
func unpackAndMake(packed, tree, image string) error {
	const script = `mkdir "$1" && tar -C "$1" -xzpf "$0" && mkfs.ext4 -q -d "$1" "$2" 512M && sync "$2"`
	if out, err := exec.Command("sh", "-c", script, packed, tree, image).CombinedOutput(); err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	return nil
}

// memory is one figure, in bytes, of what the kernel says in a file of /proc
// about a process of the host.
func memory(b *testing.B, h *host.Host, name, file, field string) int64 {
	b.Helper()
	pids := h.Pids(name)
	if len(pids) != 1 {
		b.Fatalf("%d processes are %s", len(pids), name)
	}
	text, err := os.ReadFile(h.Path(filepath.Join("/proc", strconv.Itoa(pids[0]), file)))
	if err != nil {
		b.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		fields := strings.Fields(line)
		if len(fields) == 3 && fields[0] == field && fields[2] == "kB" {
			kib, err := strconv.ParseInt(fields[1], 10, 64)
			if err != nil {
				b.Fatal(err)
			}
			return kib << 10
		}
	}
	b.Fatalf("/proc/%d/%s has no %s", pids[0], file, field)
	return 0
}

// benchDisk compares disks of a small image with those of a large one, by each
// backend that does not copy, on a file system where it works. They are of the size that
// vm create asks for where its user does not.
func benchDisk(b *testing.B, t *table) {
	for _, c := range []struct {
		backend disk.Backend
		fs      string
	}{{disk.Overlay, "ext4"}, {disk.Reflink, "xfs"}} {
		h := host.New(b, host.Config{Banger: "/bin/true", StateFS: c.fs, StateMiB: 12 << 10})
		dir := h.Path("/var/lib")
		small, large := fullImage(b, filepath.Join(dir, "small"), 1<<30), fullImage(b, filepath.Join(dir, "large"), 8<<30)
		out := filepath.Join(dir, "out")
		create := func(origin *os.File) func() time.Duration {
			return func() time.Duration {
				defer os.Remove(out)
				return timed(b, func() error {
					return disk.Create(b.Context(), disk.Spec{Backend: c.backend, Origin: origin, SizeBytes: 10 << 30}, out)
				})
			}
		}
		const turns = 21
		times := inTurn(turns, create(large), create(small))
		t.compare("disk of an 8 GiB image, "+string(c.backend)+" on "+c.fs, times[0], "of a 1 GiB image", times[1], 1.2)
	}
}

// fullImage makes an ext4 image whose blocks are all allocated, as those of a
// full one are.
func fullImage(b *testing.B, path string, bytes int64) *os.File {
	b.Helper()
	f, err := os.Create(path)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { f.Close() })
	w, err := ext4.NewWriter(f, ext4.Options{SizeBytes: bytes})
	if err == nil {
		_, err = w.Finish()
	}
	if err == nil {
		err = unix.Fallocate(int(f.Fd()), 0, 0, bytes)
	}
	if err == nil {
		err = f.Sync()
	}
	if err != nil {
		b.Fatalf("make an image of %s: %v", mib(bytes), err)
	}
	return f
}
