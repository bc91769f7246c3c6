package kernel

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	"banger/store/ext4"
	"banger/store/kernel/decompress"
)

// driveDir is the directory in /lib/modules/<release> that a guest mounts the
// drive of modules at. The paths of its index begin with it.
const driveDir = "banger"

// driveSlack is what a drive has above the content, for the file system's own.
const driveSlack = 16 << 20

// writeDrive makes the read-only drive of all kept modules and their index. A
// kernel without modules gets none.
func (c *collector) writeDrive(ctx context.Context, kept Modules) error {
	paths := slices.Concat(kept.Boot, kept.OnDemand, kept.Extra)
	if len(paths) == 0 {
		return nil
	}
	x, err := newIndex(ctx, c.set, paths, driveDir+"/")
	if err != nil {
		return err
	}
	texts, err := x.files(string(c.builtin))
	if err != nil {
		return err
	}
	f, err := c.root.OpenFile(DriveFile, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	err = c.fillDrive(ctx, f, paths, texts)
	if err == nil {
		// Readable by the VMs that share it: only a descriptor leads to it.
		err = f.Chmod(0o444)
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("make drive of modules: %w", err)
	}
	return nil
}

func (c *collector) fillDrive(ctx context.Context, f *os.File, paths []string, texts map[string]string) error {
	size := int64(driveSlack)
	for _, text := range texts {
		size += int64(len(text)) + 4096
	}
	for _, p := range paths {
		info, err := c.root.Stat(path.Join(ModulesDir, p))
		if err != nil {
			return err
		}
		size += info.Size() + 4096
	}
	w, err := ext4.NewWriter(f, ext4.Options{SizeBytes: size &^ 4095, Label: "modules"})
	if err != nil {
		return err
	}
	defer w.Abort()
	for _, name := range slices.Sorted(maps.Keys(texts)) {
		if err := addToDrive(w, name, int64(len(texts[name])), strings.NewReader(texts[name])); err != nil {
			return err
		}
	}
	for _, p := range slices.Sorted(slices.Values(paths)) {
		if err := c.addModule(ctx, w, p); err != nil {
			return err
		}
	}
	_, err = w.Finish()
	return err
}

// addModule copies the module at p.
func (c *collector) addModule(ctx context.Context, w *ext4.Writer, p string) error {
	in, err := c.root.Open(path.Join(ModulesDir, p))
	if err != nil {
		return err
	}
	defer in.Close()
	info, err := in.Stat()
	if err != nil {
		return err
	}
	return addToDrive(w, p, info.Size(), decompress.WithContext(ctx, in))
}

// addToDrive adds a file. No time of its own: the same modules give the same drive.
func addToDrive(w *ext4.Writer, name string, size int64, content io.Reader) error {
	const regular = 0o100644
	if err := w.Create(name, ext4.Header{Mode: regular, Size: size, ModTime: time.Unix(0, 0)}); err != nil {
		return err
	}
	n, err := io.Copy(w, content)
	if err == nil && n != size {
		err = io.ErrUnexpectedEOF
	}
	return err
}
