package kernel

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"banger/store/kernel/bzimage"
	"banger/store/kernel/decompress"
	"banger/store/kernel/vmlinux"
)

// Import makes the directory dst from src. dst must not exist, its parent must. It
// appears as a whole, written through to the disk, or not at all.
//
// A package is streamed: what a guest does not need never touches the disk.
func Import(ctx context.Context, src Source, dst string) (info Info, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("import kernel %q: %w", filepath.Base(src.Path), classify(err))
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
	info.Modules, useless, err = plan(ctx, c.set)
	if err != nil {
		return Info{}, err
	}
	for _, p := range useless {
		if err := root.Remove(filepath.Join(ModulesDir, p)); err != nil {
			return Info{}, err
		}
	}
	if !config.insists() {
		err := stripSignatures(root, slices.Concat(info.Modules.Boot, info.Modules.OnDemand, info.Modules.Extra))
		if err != nil {
			return Info{}, err
		}
	}
	if err := info.identify(ctx, root); err != nil {
		return Info{}, err
	}
	if err := c.lay(ctx, info.Modules); err != nil {
		return Info{}, err
	}
	return info, info.weigh(root)
}

// lay puts the modules where they are wanted: all on the drive, and those of the
// initrd, with what it has to know of them, alone in the modules directory.
func (c *collector) lay(ctx context.Context, kept Modules) error {
	if err := c.writeDrive(ctx, kept); err != nil {
		return err
	}
	for _, p := range kept.Extra {
		if err := c.root.Remove(filepath.Join(ModulesDir, p)); err != nil {
			return err
		}
	}
	x, err := newIndex(ctx, c.set, slices.Concat(kept.Boot, kept.OnDemand), "")
	if err != nil {
		return err
	}
	return saveFile(c.root, filepath.Join(ModulesDir, "modules.dep"), func(w io.Writer) error {
		_, err := io.WriteString(w, x.dep.String())
		return err
	})
}

// open takes kernel, configuration and modules out of src, and tells what it was.
func (c *collector) open(ctx context.Context, src Source) (format, error) {
	f, kind, err := src.open()
	if err != nil {
		return "", err
	}
	if f != src.File {
		defer f.Close()
	}
	var trees []tree
	switch kind {
	case formatDeb, formatRPM:
		trees = append(trees, packageFile{f, kind})
	default:
		c.image = true
		whole := io.NewSectionReader(f, 0, maxImageBytes+1) // wherever it is read by others
		if err := c.save(imageFile, decompress.WithContext(ctx, whole), maxImageBytes); err != nil {
			return "", err
		}
	}
	if src.ModulesFS != nil {
		trees = append(trees, directory{src.ModulesFS, filepath.Base(filepath.Clean(src.Modules))})
	}
	if err := c.collect(ctx, trees); err != nil {
		return "", err
	}
	if !c.image {
		return "", fmt.Errorf("%w: no boot/vmlinuz-* in the package", ErrNotKernel)
	}
	return kind, nil
}

// open returns the file of a source, which is src.File or the caller's to close, and
// tells what it is.
func (src Source) open() (*os.File, format, error) {
	if src.File == nil {
		return openFile(src.Path)
	}
	kind, err := detectRegular(src.File)
	return src.File, kind, err
}

// openFile opens a file and tells what it is.
func openFile(name string) (*os.File, format, error) {
	// Not blocking: opening a named pipe would wait for its writer.
	f, err := os.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, "", err
	}
	kind, err := detectRegular(f)
	if err != nil {
		f.Close()
		return nil, "", err
	}
	return f, kind, nil
}

func detectRegular(f *os.File) (format, error) {
	if info, err := f.Stat(); err != nil {
		return "", err
	} else if !info.Mode().IsRegular() {
		return "", fmt.Errorf("%w: not a regular file", ErrNotKernel)
	}
	return detect(f)
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
	if err != nil {
		return err
	}
	err = saveFile(root, VmlinuxFile, func(w io.Writer) error {
		_, how, err := im.Extract(ctx, w)
		i.Compression = string(how)
		return err
	})
	if err != nil {
		return err
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
	if err != nil {
		return im, err
	}
	i.PVH = im.PVH
	if i.Version == "" {
		i.setVersion(im.Version)
	}
	if i.Release == "" {
		return im, fmt.Errorf("%w: it does not tell its release", ErrNotKernel)
	}
	if !releaseText().MatchString(i.Release) {
		return im, fmt.Errorf("%w: its release is %q", ErrMalformed, i.Release)
	}
	return im, nil
}

// releaseText is what a release may be: it becomes the name of a directory. The kernel
// has room for 64 characters.
var releaseText = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^[0-9][A-Za-z0-9._+~-]{0,63}$`) })

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
