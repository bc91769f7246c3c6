package rootfs

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"banger/personas/guest/link"
)

const (
	// newRoot is where the root file system is put together in the initrd.
	newRoot = "/newroot"
	// lowerDir and upperDir are the two disks of an overlay. They lie in /run,
	// which moves along to the new root.
	lowerDir = "/run/banger/lower"
	upperDir = "/run/banger/upper"
)

// A Root is a root file system that is put together, but not entered yet.
type Root struct {
	// Own is a directory on the VM's own file system, once Switch is done:
	// there is what may grow.
	Own string
	// Warnings are what could not be done and is not needed to run.
	Warnings []error
}

// Mount waits for the disks that d names, until ctx is done, and puts the root
// file system together. Release is the kernel's, whose modules the initrd has.
func Mount(ctx context.Context, release string, d link.Disk) (*Root, error) {
	device, err := waitDevice(ctx, d.Device)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(newRoot, 0o755); err != nil {
		return nil, err
	}
	fsType := d.FSType
	if fsType == "" {
		fsType = "ext4"
	}
	for _, needed := range fileSystems(fsType, d) {
		if err := loadFileSystem(release, needed); err != nil {
			return nil, err
		}
	}
	root := &Root{Own: "/"}
	if d.Upper == "" {
		var flags uintptr
		if d.ReadOnly {
			flags = unix.MS_RDONLY
		}
		err = mountDisk(device, newRoot, fsType, flags)
	} else {
		root.Own = upperDir
		err = mountOverlay(ctx, device, fsType, d)
	}
	if err != nil {
		return nil, err
	}
	if d.Upper != "" && !d.ReadOnly {
		root.Warnings = append(root.Warnings, bindPlain()...)
	}
	return root, nil
}

// fileSystems are those that d takes.
func fileSystems(fsType string, d link.Disk) []string {
	if d.Upper == "" {
		return []string{fsType}
	}
	return []string{fsType, "ext4", "overlay"}
}

func mountDisk(device, target, fsType string, flags uintptr) error {
	if err := os.MkdirAll(target, 0o755); err != nil {
		return err
	}
	if err := unix.Mount(device, target, fsType, flags, ""); err != nil {
		return fmt.Errorf("mount %s of %q at %q: %w", fsType, device, target, err)
	}
	return nil
}

// mountOverlay stacks the VM's own disk on the image.
func mountOverlay(ctx context.Context, lower, fsType string, d link.Disk) error {
	upper, err := waitDevice(ctx, d.Upper)
	if err != nil {
		return err
	}
	if err := mountDisk(lower, lowerDir, fsType, unix.MS_RDONLY); err != nil {
		return err
	}
	if err := mountDisk(upper, upperDir, "ext4", 0); err != nil {
		return err
	}
	work, changes := filepath.Join(upperDir, "work"), filepath.Join(upperDir, "upper")
	for _, dir := range []string{work, changes} {
		// The root directory's attributes are those of the upper directory.
		if err := ensureDir(dir, 0o755); err != nil {
			return err
		}
	}
	var flags uintptr
	if d.ReadOnly {
		flags = unix.MS_RDONLY
	}
	data := fmt.Sprintf("lowerdir=%s,upperdir=%s,workdir=%s", lowerDir, changes, work)
	if err := unix.Mount("overlay", newRoot, "overlay", flags, data); err != nil {
		return fmt.Errorf("mount overlay at %q: %w", newRoot, err)
	}
	return nil
}

// bindPlain puts directories of the VM's own ext4 where container engines keep
// their layers: overlayfs cannot lie on overlayfs. An image that brings content
// there keeps it.
func bindPlain() (warnings []error) {
	for _, name := range []string{"docker", "containerd"} {
		target := filepath.Join(newRoot, "var/lib", name)
		entries, err := os.ReadDir(target)
		if len(entries) > 0 {
			continue
		}
		if err == nil || errors.Is(err, os.ErrNotExist) {
			err = bind(filepath.Join(upperDir, "plain", name), target)
		}
		if err != nil {
			warnings = append(warnings, fmt.Errorf("plain ext4 for %q: %w", "/var/lib/"+name, err))
		}
	}
	return warnings
}

func bind(source, target string) error {
	if err := ensureDir(source, 0o711); err != nil {
		return err
	}
	if err := ensureDir(target, 0o711); err != nil {
		return err
	}
	return unix.Mount(source, target, "", unix.MS_BIND, "")
}
