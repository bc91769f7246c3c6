package image

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"regexp"
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
		return Source{}, fmt.Errorf("open image: %w: %s is a directory", ErrUnknownFormat, f.Name())
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

// dirParts are the files of a directory.
type dirParts struct{ fsys fs.FS }

func (d dirParts) open(name string) (io.ReadCloser, int64, error) {
	f, err := d.fsys.Open(name)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrInvalid) {
		return nil, 0, fmt.Errorf("%s: %w", name, ErrMissing)
	}
	if err != nil {
		return nil, 0, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%s: %w: not a regular file", name, ErrCorrupt)
	}
	if err != nil {
		f.Close()
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

// maxParts bounds the entries of a container archive, which has a few per layer.
const maxParts = 100_000

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
	name := path.Clean(h.Name)
	if _, twice := t.files[name]; twice || len(t.files)+len(t.links) >= maxParts {
		return fmt.Errorf("%w: %s is there twice, or there are too many parts", ErrCorrupt, name)
	}
	switch h.Typeflag {
	case tar.TypeDir:
	case tar.TypeReg:
		if h.PAXRecords["GNU.sparse.major"] != "" || h.PAXRecords["GNU.sparse.map"] != "" {
			return fmt.Errorf("%w: %s is sparse", ErrCorrupt, name)
		}
		t.files[name] = region{off, h.Size}
	case tar.TypeSymlink:
		t.links[name] = path.Join(path.Dir(name), h.Linkname)
	case tar.TypeLink:
		t.links[name] = path.Clean(h.Linkname)
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

// partName matches what container archives are made of; nothing in a root file system is
// called like that.
var partName = sync.OnceValue(func() *regexp.Regexp {
	return regexp.MustCompile(`^(blobs(/sha256(/[0-9a-f]{64})?)?|oci-layout|index\.json|manifest\.json|repositories|[0-9a-f]{64}(\.json|\.tar|/(layer\.tar|VERSION|json))?)$`)
})

// isArchive tells a container archive from a root file system by the name of its first
// entry, of which head is the beginning.
func isArchive(head []byte) bool {
	for t := tar.NewReader(bytes.NewReader(head)); ; {
		h, err := t.Next()
		if err != nil {
			return false
		}
		if name := path.Clean(h.Name); name != "." {
			return partName().MatchString(name)
		}
	}
}
