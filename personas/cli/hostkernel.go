package cli

import (
	"cmp"
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
	image, modules, config := hostKernel(root, release)
	s, err := openKernel(image, modules, config)
	switch {
	case err == nil:
		return s, nil
	case isDenied(image) || isDenied(modules) || config != "" && isDenied(config):
		return nil, withHint(fmt.Errorf("open kernel of this host: %w", err), `run "sudo banger kernel import --host"`)
	}
	return nil, withHint(fmt.Errorf("open kernel of this host: %w", err),
		"the running kernel %s has no file here, as in a container or after an upgrade; import a kernel package instead: banger kernel import linux-image-*.deb", release)
}

// hostKernel returns where distributions keep a kernel, its modules and its
// configuration: Debian and Ubuntu in /boot; Fedora and Arch beside the modules;
// some uncompressed. config is empty if there is none.
func hostKernel(root, release string) (image, modules, config string) {
	modules = filepath.Join(root, "/lib/modules", release)
	boot := func(name string) string { return filepath.Join(root, "/boot", name+"-"+release) }
	image = cmp.Or(firstFile(boot("vmlinuz"), filepath.Join(modules, "vmlinuz"), boot("vmlinux")), boot("vmlinuz"))
	return image, modules, firstFile(boot("config"), filepath.Join(modules, "config"))
}

// firstFile returns the first of paths that is a regular file, or nothing.
func firstFile(paths ...string) string {
	for _, path := range paths {
		if info, err := os.Stat(path); err == nil && info.Mode().IsRegular() {
			return path
		}
	}
	return ""
}

// isDenied reports whether this user may not look at path.
func isDenied(path string) bool {
	f, err := os.Open(path)
	if err == nil {
		f.Close()
	}
	return errors.Is(err, fs.ErrPermission)
}
