// Package vmlinux reads what an uncompressed kernel tells about itself: whether
// it can be loaded, its release, its configuration, its entries.
package vmlinux

import (
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"

	"banger/store/kernel/decompress"
	"banger/store/kernel/elf64"
)

// Errors of this package, for errors.Is.
var (
	// ErrArch means a kernel for another architecture than x86-64.
	ErrArch = errors.New("kernel is for another architecture")
	// ErrMalformed means an ELF file that no VMM could load as a kernel.
	ErrMalformed = errors.New("malformed kernel")
)

const (
	// maxMemory bounds what the kernel's segments may take in memory.
	maxMemory = 2 << 30
	// maxConfig bounds the embedded configuration.
	maxConfig = 4 << 20
	// maxBanner bounds the "Linux version" line.
	maxBanner = 512
)

// Image is what Inspect found.
type Image struct {
	// Version is the kernel's banner without "Linux version ": release, builder,
	// compiler, uname -v. It is empty if none was found.
	Version string
	// PVH tells of an entry without firmware; QEMU's -kernel needs it.
	PVH bool
	// Config is the configuration that the kernel carries (CONFIG_IKCONFIG), or nil.
	Config []byte
}

// machines names what people may hand in by mistake.
var machines = map[uint16]string{
	3: "i386", 8: "mips", 20: "powerpc", 21: "powerpc64", 22: "s390x", 40: "arm", 183: "arm64", 243: "riscv64", 258: "loongarch64",
}

// Inspect checks that the file of size bytes in r is a kernel that a VMM can
// load, and reads it once.
func Inspect(r io.ReaderAt, size int64) (Image, error) {
	f, err := elf64.Open(r, size)
	if err != nil {
		return Image{}, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	if err := check(f, uint64(size)); err != nil {
		return Image{}, err
	}
	im := Image{PVH: f.HasPVH()}
	return im, im.scan(io.NewSectionReader(r, 0, size))
}

func check(f *elf64.File, size uint64) error {
	if f.Machine != elf64.MachineX86_64 || !f.Class64 || !f.LittleEndian {
		name, ok := machines[f.Machine]
		if !ok {
			name = fmt.Sprintf("ELF machine %d", f.Machine)
		}
		return fmt.Errorf("%w: %s instead of x86-64", ErrArch, name)
	}
	if f.Type != elf64.TypeExecutable {
		return fmt.Errorf("%w: ELF type %d is not an executable", ErrMalformed, f.Type)
	}
	var loads, memory uint64
	entered := false
	for _, s := range f.Segments {
		if s.Type != elf64.SegmentLoad {
			continue
		}
		loads++
		if s.Offset > size || s.FileBytes > size-s.Offset {
			return fmt.Errorf("%w: segment of %d bytes at %d, but the file has %d (cut off?)",
				ErrMalformed, s.FileBytes, s.Offset, size)
		}
		if s.FileBytes > s.MemBytes || s.MemBytes > maxMemory || s.Physical > maxMemory {
			return fmt.Errorf("%w: segment of %d bytes in %d bytes of memory at %#x",
				ErrMalformed, s.FileBytes, s.MemBytes, s.Physical)
		}
		memory += s.MemBytes
		if f.Entry >= s.Physical && f.Entry-s.Physical < s.MemBytes {
			entered = true
		}
	}
	if loads == 0 || memory > maxMemory || !entered {
		return fmt.Errorf("%w: %d segments, %d bytes of memory, entry %#x", ErrMalformed, loads, memory, f.Entry)
	}
	return nil
}

var (
	bannerStart = []byte("Linux version ")
	configStart = []byte("IKCFG_ST\x1f\x8b")
)

const (
	window  = 1 << 20
	overlap = 1 << 10
)

// scan looks for the banner and the configuration, window by window.
func (im *Image) scan(r *io.SectionReader) error {
	buf := make([]byte, window+overlap)
	for at := int64(0); at < r.Size(); at += window {
		n, err := r.ReadAt(buf, at)
		if err != nil && err != io.EOF {
			return fmt.Errorf("read kernel: %w", err)
		}
		if im.Version == "" {
			im.Version = banner(buf[:n])
		}
		if i := bytes.Index(buf[:n], configStart); i >= 0 && im.Config == nil {
			im.Config = config(io.NewSectionReader(r, at+int64(i)+8, maxConfig))
		}
		if im.Version != "" && im.Config != nil {
			return nil
		}
	}
	return nil
}

// banner returns the rest of the first line that starts as the kernel's banner
// and goes on with a digit; printk formats ("Linux version %s") do not.
func banner(data []byte) string {
	for {
		i := bytes.Index(data, bannerStart)
		if i < 0 {
			return ""
		}
		data = data[i+len(bannerStart):]
		line, _, ended := bytes.Cut(data[:min(len(data), maxBanner)], []byte{'\n'})
		if ended && len(line) > 0 && line[0] >= '0' && line[0] <= '9' && printable(line) {
			return string(line)
		}
	}
}

func printable(line []byte) bool {
	return bytes.IndexFunc(line, func(c rune) bool { return c < ' ' || c > '~' }) < 0
}

// config decompresses the configuration; damage counts as none.
func config(r io.Reader) []byte {
	zr, err := gzip.NewReader(r)
	if err != nil {
		return nil
	}
	zr.Multistream(false) // the mark IKCFG_ED follows
	var out bytes.Buffer
	if _, err := decompress.Copy(&out, zr, maxConfig); err != nil {
		return nil
	}
	return out.Bytes()
}
