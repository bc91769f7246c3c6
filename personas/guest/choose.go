package guest

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"banger/personas/guest/link"
)

// chooseInit decides what becomes PID 1 of the image at root.
func chooseInit(root string, mode link.InitMode) (initProgram, error) {
	if mode == link.InitBanger {
		return initProgram{}, nil
	}
	for _, path := range link.Inits() {
		target, err := resolve(root, path)
		if err != nil {
			continue
		}
		if mode != link.InitImage && idle(root, target) {
			continue
		}
		return initProgram{path: path, systemd: isSystemd(target)}, nil
	}
	if mode == link.InitImage {
		return initProgram{}, fmt.Errorf("find the image's init: none of %s is there", strings.Join(link.Inits(), ", "))
	}
	return initProgram{}, nil
}

// idle reports whether an init would have nothing to do: container images bring
// BusyBox, whose init then only starts logins on terminals that are not there.
func idle(root, target string) bool {
	if filepath.Base(target) != "busybox" {
		return false
	}
	for _, services := range []string{"/sbin/openrc", "/etc/init.d/rcS"} {
		if _, err := resolve(root, services); err == nil {
			return false
		}
	}
	return true
}

var errNoProgram = errors.New("no program")

// resolve follows the links of a path in the tree at root, and returns where in
// the tree the executable file is.
func resolve(root, path string) (string, error) {
	for range 16 {
		full := filepath.Join(root, path)
		info, err := os.Lstat(full)
		if err != nil {
			return "", err
		}
		if info.Mode()&os.ModeSymlink == 0 {
			if !info.Mode().IsRegular() || info.Mode()&0o111 == 0 {
				return "", errNoProgram
			}
			return path, nil
		}
		to, err := os.Readlink(full)
		if err != nil {
			return "", err
		}
		if !filepath.IsAbs(to) {
			to = filepath.Join(filepath.Dir(path), to)
		}
		path = filepath.Clean("/" + to)
	}
	return "", errNoProgram
}
