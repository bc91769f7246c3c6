package image

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"path"
	"strings"
	"time"

	"banger/store/ext4"
)

const (
	whiteout       = ".wh."
	whiteoutOpaque = ".wh..wh..opq"
	whiteoutOther  = ".wh..wh." // aufs kept its own files under such names
)

// builder applies layers to a file system and keeps count of Limits.
type builder struct {
	w       *ext4.Writer
	limits  Limits
	content int64
	entries int
	dropped int
	buf     []byte
	kept    map[string][]byte // the content of the files that keeps names, by path
	layered bool              // an entry is called as docker calls a layer
}

// osReleasePaths are where os-release may be, best first.
var osReleasePaths = []string{"etc/os-release", "usr/lib/os-release"}

const maxOSRelease = 64 << 10

// keeps tells whether the content of a file is wanted in memory too.
func (b *builder) keeps(name string, size int64) bool {
	switch name {
	case osReleasePaths[0], osReleasePaths[1]:
		return size <= maxOSRelease
	case manifestFile:
		return size <= b.limits.Metadata
	}
	return false
}

func newBuilder(w *ext4.Writer, limits Limits) *builder {
	return &builder{w: w, limits: limits, buf: make([]byte, 256<<10), kept: map[string][]byte{}}
}

// layer applies one tar. Whiteouts have a meaning in layers only, not in root file systems.
// It reads r to the end of the tar, not to its own.
func (b *builder) layer(ctx context.Context, r io.Reader, whiteouts bool) error {
	t := tar.NewReader(r)
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return corrupt("tar", err)
		}
		if b.entries++; b.entries > b.limits.Entries {
			return fmt.Errorf("%w: more than %d entries", ErrTooBig, b.limits.Entries)
		}
		if err := b.entry(t, h, whiteouts); err != nil {
			return err
		}
	}
}

// corrupt makes an error of a parser one that is ErrCorrupt, unless it has its own meaning.
func corrupt(what string, err error) error {
	for _, known := range []error{ErrCorrupt, ErrTooBig, context.Canceled, context.DeadlineExceeded} {
		if errors.Is(err, known) {
			return fmt.Errorf("%s: %w", what, err)
		}
	}
	return fmt.Errorf("%s: %w: %w", what, ErrCorrupt, err)
}

// entry applies one entry of a layer.
func (b *builder) entry(t *tar.Reader, h *tar.Header, whiteouts bool) error {
	if h.Typeflag == tar.TypeXGlobalHeader || h.Typeflag == 'V' { // neither names a file
		return nil
	}
	name, err := b.checkPath(h.Name)
	if err != nil {
		return err
	}
	if base := path.Base(name); whiteouts && strings.HasPrefix(base, whiteout) {
		return b.hide(path.Dir(name), base)
	}
	if h.Typeflag == tar.TypeLink {
		target, err := b.checkPath(h.Linkname)
		if err != nil {
			return err
		}
		return refused(b.w.Link(target, name))
	}
	head, err := b.header(h)
	if err != nil {
		return fmt.Errorf("entry %q: %w", h.Name, err)
	}
	if err := b.w.Create(name, head); err != nil {
		return refused(err)
	}
	b.layered = b.layered || path.Base(name) == "layer.tar" && strings.Count(name, "/") == 1
	if h.Typeflag == tar.TypeReg || h.Typeflag == tar.TypeGNUSparse || h.Typeflag == tar.TypeCont {
		return b.copy(t, name, h.Size)
	}
	return nil
}

// copy gives the file that was just created its content.
func (b *builder) copy(t *tar.Reader, name string, size int64) error {
	if b.content += size; b.content > b.limits.Bytes {
		return fmt.Errorf("entry %q: %w: more than %d bytes of content", name, ErrTooBig, b.limits.Bytes)
	}
	var dst io.Writer = b.w
	var keep strings.Builder
	wanted := b.keeps(name, size)
	if wanted {
		dst = io.MultiWriter(b.w, &keep)
	}
	for size > 0 {
		n, err := t.Read(b.buf)
		if _, werr := dst.Write(b.buf[:n]); werr != nil {
			return refused(werr)
		}
		size -= int64(n)
		if err != nil && size > 0 {
			return corrupt("entry "+name, noEOF(err))
		}
	}
	if wanted {
		b.kept[name] = []byte(keep.String())
	}
	return nil
}

func noEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// hide applies a whiteout in dir.
func (b *builder) hide(dir, base string) error {
	switch {
	case base == whiteoutOpaque:
		return refused(b.w.Clear(dir))
	case strings.HasPrefix(base, whiteoutOther):
		return nil
	}
	hidden := base[len(whiteout):]
	if hidden == "" || hidden == "." || hidden == ".." {
		return fmt.Errorf("whiteout %q: %w", path.Join(dir, base), ErrCorrupt)
	}
	return refused(b.w.Remove(path.Join(dir, hidden)))
}

// refused tells what package ext4 refused apart from what the host's disk did.
func refused(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, ext4.ErrTooBig), errors.Is(err, ext4.ErrNoSpace):
		return fmt.Errorf("%w: %w", ErrTooBig, err)
	}
	for _, e := range []error{ext4.ErrName, ext4.ErrNotDir, ext4.ErrLoop, ext4.ErrLinks, ext4.ErrXattr, ext4.ErrSize, fs.ErrNotExist, fs.ErrInvalid} {
		if errors.Is(err, e) {
			return fmt.Errorf("%w: %w", ErrCorrupt, err)
		}
	}
	return err
}

// checkPath cleans the name of an entry: "./" and leading slashes go, ".." is an error even
// where it would stay inside.
func (b *builder) checkPath(name string) (string, error) {
	if len(name) > b.limits.Path {
		return "", fmt.Errorf("entry %.40q...: %w: name of %d bytes", name, ErrTooBig, len(name))
	}
	depth := 0
	for part := range strings.SplitSeq(name, "/") {
		switch part {
		case "..":
			return "", fmt.Errorf("entry %q: %w: name leads upwards", name, ErrCorrupt)
		case "", ".":
		default:
			depth++
		}
	}
	if depth > b.limits.Depth {
		return "", fmt.Errorf("entry %.40q...: %w: %d directories deep", name, ErrTooBig, depth)
	}
	return strings.TrimPrefix(path.Clean("/"+name), "/"), nil
}

// types are the types of entries, as the kernel has them in a mode.
var types = map[byte]uint32{
	tar.TypeReg: 0o100000, tar.TypeCont: 0o100000, tar.TypeGNUSparse: 0o100000,
	tar.TypeDir: 0o040000, tar.TypeSymlink: 0o120000, tar.TypeFifo: 0o010000,
	tar.TypeChar: 0o020000, tar.TypeBlock: 0o060000,
}

// header turns a tar's header into one of the file system.
func (b *builder) header(h *tar.Header) (ext4.Header, error) {
	typ, ok := types[h.Typeflag]
	if !ok {
		return ext4.Header{}, fmt.Errorf("%w: type %q", ErrCorrupt, h.Typeflag)
	}
	for _, id := range []int{h.Uid, h.Gid} {
		if id < 0 || id > math.MaxUint32 {
			return ext4.Header{}, fmt.Errorf("%w: owner %d", ErrCorrupt, id)
		}
	}
	if h.Devmajor < 0 || h.Devminor < 0 || h.Devmajor > math.MaxUint32 || h.Devminor > math.MaxUint32 {
		return ext4.Header{}, fmt.Errorf("%w: device %d:%d", ErrCorrupt, h.Devmajor, h.Devminor)
	}
	if h.Size < 0 {
		return ext4.Header{}, fmt.Errorf("%w: size %d", ErrCorrupt, h.Size)
	}
	if h.Size > b.limits.Bytes-b.content {
		return ext4.Header{}, fmt.Errorf("%w: %d bytes", ErrTooBig, h.Size)
	}
	xattrs, err := b.xattrs(h)
	if err != nil {
		return ext4.Header{}, err
	}
	return ext4.Header{
		Mode: typ | uint32(h.Mode)&0o7777,
		UID:  uint32(h.Uid), GID: uint32(h.Gid),
		Size:    h.Size,
		ModTime: orEpoch(h.ModTime), AccessTime: h.AccessTime, ChangeTime: h.ChangeTime,
		Target: h.Linkname,
		Major:  uint32(h.Devmajor), Minor: uint32(h.Devminor),
		Xattrs: xattrs,
	}, nil
}

// orEpoch makes 1970 of the zero time, which archive/tar gives where there is none.
func orEpoch(t time.Time) time.Time {
	if t.IsZero() {
		return time.Unix(0, 0)
	}
	return t
}
