package image

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"regexp"
	"strings"
	"sync"
)

// Source is where an image comes from. Make one with FromFile, FromReader or FromDir.
type Source struct {
	r   io.Reader
	at  io.ReaderAt // with size; nil if r is all there is
	n   int64
	dir fs.FS
}

// FromFile reads from f, which stays the caller's: a regular file in any order, anything
// else (a pipe) from its present position to its end.
func FromFile(f *os.File) (Source, error) {
	info, err := f.Stat()
	if err != nil {
		return Source{}, err
	}
	if info.IsDir() {
		return Source{}, fmt.Errorf("open image: %w %s", ErrDirectory, f.Name())
	}
	if !info.Mode().IsRegular() {
		return FromReader(f), nil
	}
	return Source{r: io.NewSectionReader(f, 0, info.Size()), at: f, n: info.Size()}, nil
}

// FromReader reads from r once, to its end.
func FromReader(r io.Reader) Source { return Source{r: r} }

// FromDir reads an OCI layout or an unpacked "docker save" archive. A file system that does
// not let symbolic links lead out, as os.Root's, keeps the layout from naming other files.
func FromDir(dir fs.FS) Source { return Source{dir: dir} }

// parts gives access to the files of a container archive by name.
type parts interface {
	// open returns a file and its size, or an error that is ErrMissing.
	open(name string) (io.ReadCloser, int64, error)
}

// read returns a whole small file.
func read(p parts, name string, limit int64) ([]byte, error) {
	f, size, err := p.open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if size > limit {
		return nil, fmt.Errorf("%s: %w: %d bytes", name, ErrTooBig, size)
	}
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	if int64(len(data)) > limit {
		return nil, fmt.Errorf("%s: %w", name, ErrTooBig)
	}
	return data, nil
}

// has tells whether there is a file of that name, whatever it is.
func has(p parts, name string) bool {
	f, _, err := p.open(name)
	if err == nil {
		f.Close()
	}
	return !errors.Is(err, ErrMissing)
}

// dirParts are the files of a directory.
type dirParts struct{ fsys fs.FS }

func (d dirParts) open(name string) (io.ReadCloser, int64, error) {
	info, err := fs.Stat(d.fsys, name) // first: to open a pipe is to wait for its writer
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, fs.ErrInvalid):
		return nil, 0, fmt.Errorf("%s: %w", name, ErrMissing)
	case err != nil:
		return nil, 0, err
	case !info.Mode().IsRegular():
		return nil, 0, fmt.Errorf("%s: %w: not a regular file", name, ErrCorrupt)
	}
	f, err := d.fsys.Open(name)
	if err != nil {
		return nil, 0, err
	}
	return f, info.Size(), nil
}

// tarParts are the files of a tar, at known places in a file.
type tarParts struct {
	at    io.ReaderAt
	files map[string]region
	links map[string]string
}

// region is a part of a file.
type region struct{ off, size int64 }

// What a container archive may have of entries, of which there are a few per layer, and
// of bytes in the name of each, which is made of a digest.
const (
	maxParts    = 100_000
	maxPartName = 1024
)

func (t *tarParts) open(name string) (io.ReadCloser, int64, error) {
	if target, ok := t.links[name]; ok { // old docker links equal layers
		name = target
	}
	e, ok := t.files[name]
	if !ok {
		return nil, 0, fmt.Errorf("%s: %w", name, ErrMissing)
	}
	return io.NopCloser(io.NewSectionReader(t.at, e.off, e.size)), e.size, nil
}

// add notes one entry of the archive whose content lies at off.
func (t *tarParts) add(h *tar.Header, off int64) error {
	if len(h.Name) > maxPartName || len(h.Linkname) > maxPartName {
		return fmt.Errorf("%.40q...: %w: name of more than %d bytes", h.Name, ErrTooBig, maxPartName)
	}
	name := partPath(h.Name)
	if _, twice := t.files[name]; twice || len(t.files)+len(t.links) >= maxParts {
		return fmt.Errorf("%w: %s is there twice, or there are too many parts", ErrCorrupt, name)
	}
	switch h.Typeflag {
	case tar.TypeDir, tar.TypeXGlobalHeader:
	case tar.TypeReg:
		if h.PAXRecords["GNU.sparse.major"] != "" || h.PAXRecords["GNU.sparse.map"] != "" {
			return fmt.Errorf("%w: %s is sparse", ErrCorrupt, name)
		}
		t.files[name] = region{off, h.Size}
	case tar.TypeSymlink:
		t.links[name] = path.Join(path.Dir(name), h.Linkname)
	case tar.TypeLink:
		t.links[name] = partPath(h.Linkname)
	default:
		return fmt.Errorf("%w: %s has type %q", ErrCorrupt, name, h.Typeflag)
	}
	return nil
}

// indexTar finds the parts of an archive that lies uncompressed in a file.
func indexTar(ctx context.Context, at io.ReaderAt, size int64) (*tarParts, error) {
	r := io.NewSectionReader(at, 0, size)
	t := tar.NewReader(r)
	p := &tarParts{at: at, files: map[string]region{}, links: map[string]string{}}
	for {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			return p, nil
		}
		if err != nil {
			return nil, corrupt("archive", err)
		}
		off, err := r.Seek(0, io.SeekCurrent) // archive/tar reads no byte ahead
		if err != nil {
			return nil, err
		}
		if off+h.Size > size {
			return nil, fmt.Errorf("archive: %w: %s is cut off", ErrCorrupt, h.Name)
		}
		if err := p.add(h, off); err != nil {
			return nil, err
		}
	}
}

// spool copies the parts of an archive that comes as a stream to file.
func spool(ctx context.Context, r io.Reader, file *os.File, limits Limits) (*tarParts, error) {
	t := tar.NewReader(r)
	p := &tarParts{at: file, files: map[string]region{}, links: map[string]string{}}
	for off := int64(0); ; {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			return p, nil
		}
		if err != nil {
			return nil, corrupt("archive", err)
		}
		if err := p.add(h, off); err != nil {
			return nil, err
		}
		if h.Typeflag != tar.TypeReg {
			continue
		}
		if h.Size > limits.Bytes-off {
			return nil, fmt.Errorf("archive: %w: more than %d bytes", ErrTooBig, limits.Bytes)
		}
		n, err := io.Copy(io.NewOffsetWriter(file, off), t)
		if err != nil {
			return nil, spoolError(err)
		}
		off += n
	}
}

// spoolError tells a full disk from a broken archive.
func spoolError(err error) error {
	var disk *fs.PathError
	if errors.As(err, &disk) {
		return fmt.Errorf("spool archive: %w", err)
	}
	return corrupt("archive", err)
}

// strangers are what people try to import, by what it has at an offset.
var strangers = []struct {
	off   int
	magic string
	what  string
	err   error
}{
	{0, "!<arch>\n", "Debian package", ErrKernel},
	{0, "\xed\xab\xee\xdb", "RPM package", ErrKernel},
	{0, "\x7fELF", "ELF file", ErrKernel},
	{514, "HdrS", "bzImage", ErrKernel},
	{0x438, "\x53\xef", "ext4 file system", ErrUnknownFormat},
	{0, "hsqs", "squashfs", ErrUnknownFormat},
	{0, "QFI\xfb", "qcow2 disk", ErrUnknownFormat},
	{0x8001, "CD001", "ISO 9660 file system", ErrUnknownFormat},
	{510, "\x55\xaa", "disk with partitions", ErrUnknownFormat},
	{0, "PK\x03\x04", "zip archive", ErrUnknownFormat},
	{0, "BZh", "bzip2 stream", ErrUnknownFormat},
}

// foreign refuses what is known to be no image. A tar is never taken for a stranger.
func foreign(head []byte) error {
	if _, err := tar.NewReader(bytes.NewReader(head)).Next(); err == nil {
		return nil
	}
	for _, s := range strangers {
		if len(head) > s.off && bytes.HasPrefix(head[s.off:], []byte(s.magic)) {
			return fmt.Errorf("%w: %s", s.err, s.what)
		}
	}
	return nil
}

// partName matches how the first entry of a container archive is called, as far as those who
// write them are known; nothing in a root file system is called like that.
//
//	blobs/, blobs/sha256/<hex>     docker since 25, containerd, buildkit, skopeo's oci-archive
//	<hex>/, <hex>/layer.tar        docker before 25, nix, .NET
//	<hex>.tar, <hex>.json          podman, skopeo's docker-archive, buildpacks
//	sha256:<hex>, <hex>.tar.gz     crane, ko, kaniko, jib
//
// The others are first where somebody unpacked an archive and packed it again.
var partName = sync.OnceValue(func() *regexp.Regexp {
	return regexp.MustCompile(`^(blobs(/sha(256|512)(/.*)?)?|oci-layout|index\.json|manifest\.json|repositories|(sha256:)?[0-9a-f]{64}(\.json|\.tar(\.gz)?|/(layer\.tar|VERSION|json))?)$`)
})

// partPath is the name of an archive's part: some write it with "./" or "/" in front.
func partPath(name string) string { return strings.TrimPrefix(path.Clean(name), "/") }

// isArchive tells a container archive from a root file system by the name of its first
// entry, of which head is the beginning. Where that is not enough, refuseArchive does in the end.
func isArchive(head []byte) bool {
	for t := tar.NewReader(bytes.NewReader(head)); ; {
		h, err := t.Next()
		if err != nil {
			return false
		}
		if name := partPath(h.Name); name != "." && name != "" && h.Typeflag != tar.TypeXGlobalHeader {
			return partName().MatchString(name)
		}
	}
}

// refuseArchive looks at what was taken for a root file system: one that turns out to be a
// container archive, of a writer that is not known here, would be an image that cannot run.
func (b *builder) refuseArchive() error {
	if s, err := b.w.Stat("/oci-layout"); err == nil && s.Mode&0o170000 == 0o100000 {
		return fmt.Errorf("%w: it has oci-layout", ErrArchive)
	}
	data, ok := b.kept[manifestFile]
	if !ok {
		return nil
	}
	if b.layered {
		return fmt.Errorf("%w: it has %s and layer.tar", ErrArchive, manifestFile)
	}
	var list []savedImage
	if json.Unmarshal(data, &list) != nil {
		return nil
	}
	for _, saved := range list {
		for _, name := range saved.Layers {
			if _, err := b.w.Stat("/" + partPath(name)); err == nil {
				return fmt.Errorf("%w: it has %s, and layer %s", ErrArchive, manifestFile, name)
			}
		}
	}
	return nil
}
