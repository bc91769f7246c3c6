package image

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"banger/store/ext4"
)

const (
	defaultFree = 64 << 20
	// detectBytes is how much of a stream is looked at to tell what it is.
	detectBytes = 128 << 10
	// maxTrailing is how much may follow the end of a root file system's tar.
	maxTrailing = 16 << 20
)

// Import writes what src holds as an ext4 image to the file dst, which appears, or is
// replaced, only when it is complete, checked and synced. Whatever fails leaves nothing
// behind. Cancelling ctx ends it at the next read of the source, and ends a read that waits
// if the source has a SetReadDeadline that works.
func Import(ctx context.Context, src Source, dst string, opts Options) (Info, error) {
	if d, ok := src.r.(interface{ SetReadDeadline(time.Time) error }); ok {
		defer context.AfterFunc(ctx, func() { d.SetReadDeadline(time.Unix(1, 0)) })()
	}
	info, err := importTo(ctx, src, dst, opts)
	if err != nil && ctx.Err() != nil {
		err = ctx.Err()
	}
	if err != nil {
		if opts.Name != "" {
			return Info{}, fmt.Errorf("import image %q: %w", opts.Name, err)
		}
		return Info{}, fmt.Errorf("import image: %w", err)
	}
	return info, nil
}

func importTo(ctx context.Context, src Source, dst string, opts Options) (Info, error) {
	opts.Limits = opts.Limits.withDefaults()
	opts.FreeBytes = orDefault(opts.FreeBytes, defaultFree)
	out, err := newDraft(filepath.Dir(dst))
	if err != nil {
		return Info{}, err
	}
	defer out.discard()
	w, err := ext4.NewWriter(out.File, ext4.Options{
		SizeBytes: opts.SizeBytes, FreeBytes: opts.FreeBytes, Label: opts.Label, MaxInodes: opts.Limits.Entries,
	})
	if err != nil {
		return Info{}, err
	}
	defer w.Abort()
	im := &importer{opts: opts, builder: newBuilder(w, opts.Limits), spoolDir: filepath.Dir(dst)}
	if err := im.run(ctx, src); err != nil {
		return Info{}, err
	}
	info, err := im.finish()
	if err != nil {
		return Info{}, err
	}
	return info, out.publish(dst, opts.Finished)
}

// importer is one import.
type importer struct {
	*builder
	opts     Options
	spoolDir string
	seen     atomic.Int64 // bytes read of the source
	info     Info
}

// progress tells how much more was read of the source.
func (im *importer) progress(n int64) {
	total := im.seen.Add(n)
	if im.opts.Progress != nil {
		im.opts.Progress(total)
	}
}

func (im *importer) run(ctx context.Context, src Source) error {
	if src.dir != nil {
		if p := (dirParts{src.dir}); has(p, "index.json") || has(p, manifestFile) {
			return im.archive(ctx, p)
		}
		return fmt.Errorf("%w with neither index.json nor %s", ErrDirectory, manifestFile)
	}
	in := &counter{ctx: ctx, r: src.r, told: im.progress}
	plain, err := decompress(in)
	if err != nil {
		return err
	}
	defer plain.Close()
	limited := &expansion{r: plain, in: in, limits: im.opts.Limits}
	b := bufio.NewReaderSize(limited, detectBytes)
	head, err := b.Peek(detectBytes)
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	if len(head) == 0 {
		return ErrEmpty
	}
	if err := foreign(head); err != nil {
		return err
	}
	if !isArchive(head) {
		if im.opts.Ref != "" {
			return fmt.Errorf("image %q: %w: a root file system, which has no references", im.opts.Ref, ErrMissing)
		}
		return im.rootfs(ctx, b)
	}
	if src.at != nil && isPlain(head, src) {
		p, err := indexTar(ctx, src.at, src.n)
		if err != nil {
			return err
		}
		im.seen.Store(0)
		return im.archive(ctx, p)
	}
	file, err := newDraft(im.spoolDir)
	if err != nil {
		return err
	}
	defer file.discard()
	p, err := spool(ctx, b, file.File, im.opts.Limits)
	if err != nil {
		return err
	}
	im.opts.Progress = nil // all of the source is read
	return im.archive(ctx, p)
}

// isPlain tells whether head is how the source itself begins, with no compression.
func isPlain(head []byte, src Source) bool {
	raw := make([]byte, min(len(head), 512))
	n, err := src.at.ReadAt(raw, 0)
	return err == nil && bytes.Equal(raw[:n], head[:n])
}

// rootfs imports a tar that is the whole tree.
func (im *importer) rootfs(ctx context.Context, r io.Reader) error {
	sum := sha256.New()
	p := newPipeline(ctx, r, sum)
	defer p.stop()
	if err := im.layer(ctx, p, false); err != nil {
		if im.entries == 0 && errors.Is(err, ErrCorrupt) {
			return fmt.Errorf("%w: neither a tar nor a compressed one: %w", ErrUnknownFormat, err)
		}
		return err
	}
	if im.entries == 0 {
		return ErrNoLayers
	}
	if err := im.refuseArchive(); err != nil {
		return err
	}
	if p.ended { // nothing else tells a tar that was cut off between two entries
		return fmt.Errorf("tar: %w: ends without its end marker", ErrCorrupt)
	}
	if n, err := io.Copy(io.Discard, io.LimitReader(p, maxTrailing+1)); err != nil {
		return err
	} else if n > maxTrailing {
		return fmt.Errorf("%w: more than %d bytes after the end of the tar", ErrCorrupt, maxTrailing)
	}
	im.info.Format, im.info.Layers = "rootfs", 1
	im.info.Digest = string(digestIn(sum))
	return nil
}

// archive imports a container image.
func (im *importer) archive(ctx context.Context, p parts) error {
	pic, err := openPicture(p, im.opts)
	if err != nil {
		return err
	}
	for i, l := range pic.layers {
		if i > 0 {
			im.w.NextLayer()
		}
		if err := im.apply(ctx, pic.parts, l); err != nil {
			return fmt.Errorf("layer %d: %w", i, err)
		}
	}
	im.info.Format, im.info.Layers = pic.format, len(pic.layers)
	im.info.Digest, im.info.Config = string(pic.digest), pic.config
	return nil
}

// openPicture reads the manifest of a container archive, the OCI one first: it has a digest
// for every part. Docker 25.0 left layers, and images without a tag, out of that one.
func openPicture(p parts, opts Options) (*picture, error) {
	pic, err := openOCI(p, opts)
	switch {
	case errors.Is(err, ErrNoLayers) && has(p, manifestFile):
	case !errors.Is(err, ErrMissing) || has(p, "index.json"):
		return pic, err
	}
	if !has(p, manifestFile) {
		return nil, fmt.Errorf("%w: neither index.json nor %s", ErrUnknownFormat, manifestFile)
	}
	return openDocker(p, opts)
}

// apply applies one layer and checks its digests after its last byte.
func (im *importer) apply(ctx context.Context, p parts, l layerRef) error {
	f, size, err := p.open(l.name)
	if err != nil {
		return err
	}
	defer f.Close()
	if l.size >= 0 && size != l.size {
		return fmt.Errorf("blob %s: %w: %d bytes, want %d", l.name, ErrDigest, size, l.size)
	}
	stored, content := sha256.New(), sha256.New()
	raw := newPipeline(ctx, &counter{ctx: ctx, r: f, told: im.progress}, stored)
	defer raw.stop()
	in := &counter{ctx: ctx, r: raw}
	plain, err := decompress(in)
	if err != nil {
		return err
	}
	defer plain.Close()
	tar := newPipeline(ctx, &expansion{r: plain, in: in, limits: im.opts.Limits}, content)
	defer tar.stop()
	if err := im.layer(ctx, tar, true); err != nil {
		return err
	}
	if _, err := io.Copy(io.Discard, tar); err != nil {
		return err
	}
	if err := compare(content, l.diffID); err != nil {
		return err
	}
	if l.blob == "" {
		return nil
	}
	if _, err := io.Copy(io.Discard, in); err != nil {
		return err
	}
	return compare(stored, l.blob)
}

func compare(h hash.Hash, want digest) error {
	if got := digestIn(h); got != want {
		return fmt.Errorf("%w: %s, want %s", ErrDigest, got, want)
	}
	return nil
}

// finish completes the file system and the description of it.
func (im *importer) finish() (Info, error) {
	im.w.SetUUID(uuidOf(im.info.Digest))
	info := im.info
	info.Init = im.init()
	info.OSName = im.osName()
	s, err := im.w.Finish()
	if err != nil {
		return Info{}, refused(err)
	}
	info.SizeBytes, info.FreeBytes, info.UUID = s.SizeBytes, s.FreeBytes, s.UUID
	info.ContentBytes, info.Entries, info.Dropped = im.content, im.entries, im.dropped
	return info, nil
}

// uuidOf makes a UUID of version 8 from a digest: the same content has the same one.
func uuidOf(digest string) (u [16]byte) {
	sum := sha256.Sum256([]byte(digest))
	copy(u[:], sum[:])
	u[6] = u[6]&0x0f | 0x80
	u[8] = u[8]&0x3f | 0x80
	return u
}

// initPaths are where an init system may be, in the order of preference: those in which
// the guest looks for what it starts.
var initPaths = []string{"/sbin/init", "/usr/sbin/init", "/usr/lib/systemd/systemd", "/lib/systemd/systemd", "/etc/init"}

// init finds the init system of the tree.
func (im *importer) init() string {
	for _, p := range initPaths {
		if s, err := im.w.Stat(p); err == nil && s.Mode&0o170000 == 0o100000 && s.Mode&0o111 != 0 && s.Size > 0 {
			return p
		}
	}
	return ""
}

// osName finds PRETTY_NAME in os-release.
func (im *importer) osName() string {
	for _, p := range osReleasePaths {
		if _, err := im.w.Stat(p); err != nil {
			continue
		}
		for line := range strings.Lines(string(im.kept[p])) {
			if v, ok := strings.CutPrefix(strings.TrimSpace(line), "PRETTY_NAME="); ok {
				return strings.Trim(v, `"'`)
			}
		}
	}
	return ""
}
