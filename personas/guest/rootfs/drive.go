package rootfs

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"banger/personas/guest/modprobe"
)

const (
	// driveDir is where the drive of modules is mounted, below the directory of
	// the kernel's release. The index on the drive says so too.
	driveDir = "banger"
	// nodeList is the part of the index that names devices.
	nodeList = "modules.devname"
	// Program is where the binary of PID 1 can be started from once the initrd
	// is gone. Its name is that of a role.
	Program = "/run/banger/banger-guest"
)

// MountModules mounts the drive with the kernel's modules, and leads modprobe to
// the index on it.
//
// Only a directory of its own is the drive's, read-only: the one above stays the
// guest's, where the packages of kernel headers and DKMS write. An image that
// brings modules for this very kernel keeps them. It is called after Switch.
func MountModules(ctx context.Context, release, device string) error {
	dir := modprobe.Dir(release)
	target := filepath.Join(dir, driveDir)
	_, own := os.Lstat(filepath.Join(dir, "modules.dep"))
	if _, err := os.Lstat(target); own == nil && errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	path, err := waitDevice(ctx, device)
	if err != nil {
		return err
	}
	if err := mountDisk(path, target, "ext4", unix.MS_RDONLY|unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC); err != nil {
		return err
	}
	return errors.Join(linkIndex(dir), makeNodes(filepath.Join(target, nodeList), "/dev"))
}

// linkIndex makes links to the files of the index, where there are none yet, nor
// others that depmod has made since. The list of devices is left out: what it
// asks for is done here, and systemd would start a kmod for it that an image may
// not have.
func linkIndex(dir string) error {
	entries, err := os.ReadDir(filepath.Join(dir, driveDir))
	if err != nil {
		return fmt.Errorf("link index of modules: %w", err)
	}
	for _, e := range entries {
		if !e.Type().IsRegular() || e.Name() == nodeList {
			continue
		}
		err := os.Symlink(filepath.Join(driveDir, e.Name()), filepath.Join(dir, e.Name()))
		if err != nil && !errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("link index of modules: %w", err)
		}
	}
	return nil
}

// everybodys are devices whose drivers look themselves at who may do what, and
// which all distributions give to everybody.
func everybodys() map[string]bool { return map[string]bool{"fuse": true, "net/tun": true} }

// makeNodes makes the devices of modules that are loaded when one of these is
// opened. That is udev's work where there is one.
func makeNodes(list, dev string) error {
	text, err := os.ReadFile(list)
	if err != nil {
		return fmt.Errorf("make devices of modules: %w", err)
	}
	for line := range strings.Lines(string(text)) {
		var module, name string
		var kind rune
		var major, minor uint32
		if n, _ := fmt.Sscanf(line, "%s %s %c%d:%d", &module, &name, &kind, &major, &minor); n != 5 || !filepath.IsLocal(name) {
			continue
		}
		mode := uint32(unix.S_IFCHR)
		if kind == 'b' {
			mode = unix.S_IFBLK
		}
		path := filepath.Join(dev, name)
		err := os.MkdirAll(filepath.Dir(path), 0o755)
		if err == nil {
			err = unix.Mknod(path, mode|0o600, int(unix.Mkdev(major, minor)))
		}
		if errors.Is(err, fs.ErrExist) {
			continue // the module is loaded, or built in
		}
		if err == nil && everybodys()[name] {
			err = os.Chmod(path, 0o666)
		}
		if err != nil {
			return fmt.Errorf("make device %q: %w", path, err)
		}
	}
	return nil
}

// KeepProgram makes the running binary reachable as Program, also when the initrd
// that it came with is emptied. It costs no memory: the agent runs from it anyway.
// It is called before Switch.
func KeepProgram() error {
	if err := os.MkdirAll(filepath.Dir(Program), 0o755); err != nil {
		return err
	}
	f, err := os.OpenFile(Program, os.O_WRONLY|os.O_CREATE, 0o755)
	if err != nil {
		return err
	}
	f.Close()
	if err := unix.Mount("/proc/self/exe", Program, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("keep the guest's binary: %w", err)
	}
	return nil
}
