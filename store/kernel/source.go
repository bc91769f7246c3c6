package kernel

import (
	"context"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"

	"banger/store/kernel/bzimage"
	"banger/store/kernel/deb"
	"banger/store/kernel/decompress"
	"banger/store/kernel/elf64"
	"banger/store/kernel/rpm"
)

// Source says where a kernel comes from.
type Source struct {
	// Path is a package (.deb, .rpm), a bzImage or a vmlinux.
	Path string
	// File is that file, open for reading, where it cannot be opened by its name: Path is
	// only what it is called then. It stays the caller's.
	File *os.File
	// ModulesFS is a directory of more modules, if not all are in the package. It may be
	// nil. A file system that does not let symbolic links lead out, as os.Root's, keeps it
	// from naming other files.
	ModulesFS fs.FS
	// Modules is what that directory is called: the last element is, such as
	// 6.1.0-13-amd64.
	Modules string
	// Config is the kernel's configuration, if neither in the package nor in the
	// kernel itself. It may be nil.
	Config io.Reader
}

// format is what a file turns out to be.
type format string

const (
	formatDeb     format = "deb"
	formatRPM     format = "rpm"
	formatBzImage format = "bzImage"
	formatVmlinux format = "vmlinux"
)

// headBytes are enough to tell every format.
const headBytes = 1024

// detect tells what the file r is by its first bytes.
func detect(r io.ReaderAt) (format, error) {
	head := make([]byte, headBytes)
	n, err := r.ReadAt(head, 0)
	if err != nil && err != io.EOF {
		return "", err
	}
	head = head[:n]
	switch {
	case deb.IsDeb(head):
		return formatDeb, nil
	case rpm.IsRPM(head):
		return formatRPM, nil
	case bzimage.IsBzImage(head):
		return formatBzImage, nil
	case elf64.IsELF(head):
		return formatVmlinux, nil
	case len(head) > 0x3c && string(head[0x38:0x3c]) == "ARM\x64":
		return "", fmt.Errorf("%w: arm64 instead of x86-64", ErrArch)
	case len(head) > 0x34 && string(head[0x30:0x34]) == "RISC":
		return "", fmt.Errorf("%w: riscv64 instead of x86-64", ErrArch)
	}
	return "", fmt.Errorf("%w: neither deb, rpm, bzImage nor ELF", ErrNotKernel)
}

// visit is called with each regular file of a tree: its name relative to the tree's
// root, its size, and its content, which need not be read.
type visit func(name string, size int64, content io.Reader) error

// tree is what can be walked over, more than once.
type tree interface {
	walk(ctx context.Context, fn visit) error
}

// packageFile is a tree in a package.
type packageFile struct {
	file   *os.File
	format format
}

func (p packageFile) walk(ctx context.Context, fn visit) error {
	info, err := p.file.Stat()
	if err != nil {
		return err
	}
	r := decompress.WithContext(ctx, io.NewSectionReader(p.file, 0, info.Size()))
	if p.format == formatDeb {
		return deb.Walk(r, fn)
	}
	return rpm.Walk(r, fn)
}

// directory is a module directory.
type directory struct {
	files fs.FS
	name  string
}

// walk gives names as a package would: lib/modules/<name of the directory>/...
func (d directory) walk(ctx context.Context, fn visit) error {
	return fs.WalkDir(d.files, ".", func(name string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if !entry.Type().IsRegular() || strings.Count(name, "/") > maxDirDepth {
			return nil
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		content := &lazyFile{files: d.files, name: name}
		defer content.close()
		return fn(path.Join("lib/modules", d.name, name), info.Size(), content)
	})
}

// maxDirDepth is deeper than any module lies.
const maxDirDepth = 32

// lazyFile is opened by the first read.
type lazyFile struct {
	files fs.FS
	name  string
	file  fs.File
}

func (l *lazyFile) Read(p []byte) (int, error) {
	if l.file == nil {
		f, err := l.files.Open(l.name)
		if err != nil {
			return 0, err
		}
		l.file = f
	}
	return l.file.Read(p)
}

func (l *lazyFile) close() {
	if l.file != nil {
		l.file.Close()
	}
}
