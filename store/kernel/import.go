package kernel

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"banger/store/kernel/bzimage"
	"banger/store/kernel/vmlinux"
)

// Import makes the directory dst from src. dst must not exist, its parent must. It
// appears as a whole, written through to the disk, or not at all.
//
// A package is streamed: what a guest does not need never touches the disk.
func Import(ctx context.Context, src Source, dst string) (info Info, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("import kernel %q: %w", filepath.Base(src.Path), err)
		}
	}()
	if _, err := os.Lstat(dst); !errors.Is(err, fs.ErrNotExist) {
		return Info{}, &fs.PathError{Op: "create", Path: dst, Err: fs.ErrExist}
	}
	dir, err := os.MkdirTemp(filepath.Dir(dst), ".kernel-*")
	if err != nil {
		return Info{}, err
	}
	defer os.RemoveAll(dir)
	root, err := os.OpenRoot(dir)
	if err != nil {
		return Info{}, err
	}
	defer root.Close()

	info, err = build(ctx, src, root)
	if err != nil {
		return Info{}, err
	}
	return info, publish(dir, dst)
}

// build fills root.
func build(ctx context.Context, src Source, root *os.Root) (Info, error) {
	c := newCollector(root)
	kind, err := c.open(ctx, src)
	if err != nil {
		return Info{}, err
	}
	info := Info{Arch: "x86_64", Source: filepath.Base(src.Path), Format: string(kind)}
	image, err := unpack(ctx, root, &info)
	if err != nil {
		return Info{}, err
	}
	if err := c.checkRelease(info.Release); err != nil {
		return Info{}, err
	}
	config, err := c.loadConfig(src.Config, image.Config)
	if err != nil {
		return Info{}, err
	}
	info.Config = config != nil
	info.Missing, info.Unknown, err = judge(facts{config: config, modules: c.set, builtins: c.builtin != nil})
	if err != nil {
		return Info{}, err
	}
	var useless []string
	info.Modules, useless, err = plan(c.set)
	if err != nil {
		return Info{}, fmt.Errorf("%w: %w", ErrCannotBoot, err)
	}
	for _, p := range useless {
		if err := root.Remove(filepath.Join(ModulesDir, p)); err != nil {
			return Info{}, err
		}
	}
	if err := writeIndex(root, c.set, info.Modules, c.builtin); err != nil {
		return Info{}, err
	}
	return info, info.measure(ctx, root)
}

// open takes kernel, configuration and modules out of src.
func (c *collector) open(ctx context.Context, src Source) (format, error) {
	f, err := os.Open(src.Path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	kind, err := detect(f)
	if err != nil {
		return "", err
	}
	switch kind {
	case formatDeb, formatRPM:
		err = c.collect(ctx, packageFile{f, kind})
	default:
		c.image = true
		err = c.save(imageFile, withContext(ctx, f), maxImageBytes)
	}
	if err != nil {
		return "", err
	}
	if !c.image {
		return "", fmt.Errorf("%w: no boot/vmlinuz-* in the package", ErrNotKernel)
	}
	if src.Modules == "" {
		return kind, nil
	}
	if err := c.openModules(ctx, src.Modules); err != nil {
		return "", fmt.Errorf("read modules: %w", err)
	}
	return kind, nil
}

// openModules takes modules out of a directory or a second package.
func (c *collector) openModules(ctx context.Context, name string) error {
	c.wanted = chosen
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil {
		return err
	} else if info.IsDir() {
		return c.collect(ctx, directory(name))
	}
	kind, err := detect(f)
	if err != nil {
		return err
	}
	if kind != formatDeb && kind != formatRPM {
		return fmt.Errorf("%w: %s is neither a directory nor a package", ErrNotKernel, filepath.Base(name))
	}
	return c.collect(ctx, packageFile{f, kind})
}

// unpack makes vmlinux of the image, and reads what it tells about itself.
func unpack(ctx context.Context, root *os.Root, info *Info) (vmlinux.Image, error) {
	f, err := root.Open(imageFile)
	if err != nil {
		return vmlinux.Image{}, err
	}
	defer f.Close()
	kind, err := detect(f)
	if err != nil {
		return vmlinux.Image{}, err
	}
	switch kind {
	case formatBzImage:
		if err := info.extract(ctx, root, f); err != nil {
			return vmlinux.Image{}, err
		}
	case formatVmlinux:
		if err := root.Rename(imageFile, VmlinuxFile); err != nil {
			return vmlinux.Image{}, err
		}
	default:
		return vmlinux.Image{}, fmt.Errorf("%w: a %s inside of a package", ErrNotKernel, kind)
	}
	return info.inspect(root)
}

// extract takes vmlinux out of the boot image f.
func (i *Info) extract(ctx context.Context, root *os.Root, f *os.File) error {
	stat, err := f.Stat()
	if err != nil {
		return err
	}
	im, err := bzimage.Open(f, stat.Size())
	if errors.Is(err, bzimage.ErrNot64Bit) {
		return fmt.Errorf("%w: %w", ErrArch, err)
	}
	if err != nil {
		return fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	err = saveFile(root, VmlinuxFile, func(w io.Writer) error {
		_, how, err := im.Extract(ctx, w)
		i.Compression = string(how)
		return err
	})
	if errors.As(err, new(*fs.PathError)) || ctx.Err() != nil {
		return err // the disk's fault, or the caller's wish
	}
	if err != nil {
		return fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	i.setVersion(im.Version)
	i.BzImage = true
	return root.Rename(imageFile, BzImageFile)
}

// inspect checks vmlinux and takes over what it tells.
func (i *Info) inspect(root *os.Root) (vmlinux.Image, error) {
	f, err := root.Open(VmlinuxFile)
	if err != nil {
		return vmlinux.Image{}, err
	}
	defer f.Close()
	stat, err := f.Stat()
	if err != nil {
		return vmlinux.Image{}, err
	}
	im, err := vmlinux.Inspect(f, stat.Size())
	switch {
	case errors.Is(err, vmlinux.ErrArch):
		return im, fmt.Errorf("%w: %w", ErrArch, err)
	case errors.Is(err, vmlinux.ErrMalformed):
		return im, fmt.Errorf("%w: %w", ErrMalformed, err)
	case err != nil:
		return im, err
	}
	i.PVH = im.PVH
	if i.Version == "" {
		i.setVersion(im.Version)
	}
	if i.Release == "" {
		return im, fmt.Errorf("%w: it does not tell its release", ErrNotKernel)
	}
	return im, nil
}

func (i *Info) setVersion(version string) {
	i.Version = version
	i.Release, _, _ = strings.Cut(version, " ")
}

// checkRelease compares the modules with the kernel that they are to be loaded by.
func (c *collector) checkRelease(release string) error {
	for _, m := range c.set.All() {
		if m.Release != release {
			return fmt.Errorf("%w: %s is for %q, the kernel is %q", ErrMismatch, m.Path, m.Release, release)
		}
	}
	return nil
}

// publish writes dir through to the disk and gives it its name.
func publish(dir, dst string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	// One syncfs instead of hundreds of fsyncs.
	if err := unix.Syncfs(int(f.Fd())); err != nil {
		return &fs.PathError{Op: "sync", Path: dir, Err: err}
	}
	// Not os.Rename: it would replace a directory that somebody has made meanwhile.
	err = unix.Renameat2(unix.AT_FDCWD, dir, unix.AT_FDCWD, dst, unix.RENAME_NOREPLACE)
	if err != nil {
		return &os.LinkError{Op: "rename", Old: dir, New: dst, Err: err}
	}
	parent, err := os.Open(filepath.Dir(dst))
	if err != nil {
		return err
	}
	return errors.Join(parent.Sync(), parent.Close())
}
