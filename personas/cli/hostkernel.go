package cli

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// openHostKernel opens the kernel that runs, with its modules, below root. What is
// missing is said, with how to get it.
func openHostKernel(root string) (*kernelSource, error) {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return nil, fmt.Errorf("find running kernel: %w", err)
	}
	release := unix.ByteSliceToString(u.Release[:])
	image, modules := hostKernel(root, release)
	s, err := openKernel(image, modules)
	switch {
	case err == nil:
		return s, nil
	case isDenied(image) || isDenied(modules):
		return nil, withHint(fmt.Errorf("open kernel of this host: %w", err), `run "sudo banger kernel import --host"`)
	}
	return nil, withHint(fmt.Errorf("open kernel of this host: %w", err),
		"the running kernel %s has no file here, as in a container or after an upgrade; import a kernel package instead: banger kernel import linux-image-*.deb", release)
}

// hostKernel returns where distributions keep a kernel and its modules: Debian and
// Ubuntu in /boot; Fedora and Arch beside the modules; some uncompressed.
func hostKernel(root, release string) (image, modules string) {
	modules = filepath.Join(root, "/lib/modules", release)
	usual := filepath.Join(root, "/boot/vmlinuz-"+release)
	for _, image := range []string{usual, filepath.Join(modules, "vmlinuz"), filepath.Join(root, "/boot/vmlinux-"+release)} {
		if info, err := os.Stat(image); err == nil && info.Mode().IsRegular() {
			return image, modules
		}
	}
	return usual, modules
}

// isDenied reports whether this user may not look at path.
func isDenied(path string) bool {
	f, err := os.Open(path)
	if err == nil {
		f.Close()
	}
	return errors.Is(err, fs.ErrPermission)
}
