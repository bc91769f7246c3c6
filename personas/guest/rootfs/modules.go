package rootfs

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// moduleList names the modules of the initrd, one path a line, in the order to
// load them. Relative paths begin at /lib/modules/<release>.
const moduleList = "/etc/banger/modules"

// LoadModules loads the modules of the initrd. One that does not load is
// returned and skipped: whether it was needed shows later, and better. An initrd
// without the list has none.
func LoadModules(release string) (failed []error) {
	list, err := os.ReadFile(moduleList)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return []error{err}
	}
	for path := range strings.FieldsSeq(string(list)) {
		if !filepath.IsAbs(path) {
			path = filepath.Join("/lib/modules", release, path)
		}
		if err := loadModule(path); err != nil {
			failed = append(failed, err)
		}
	}
	return failed
}

// loadFileSystem loads the module of a file system, and those that it needs, out
// of the initrd, unless the kernel knows it already. There is no modprobe yet
// that the kernel could ask. Without a module in the initrd, mounting says what
// is missing.
func loadFileSystem(release, name string) error {
	known, err := os.ReadFile("/proc/filesystems")
	if err != nil {
		return err
	}
	if slices.Contains(strings.Fields(string(known)), name) {
		return nil
	}
	dir := filepath.Join("/lib/modules", release)
	table, err := os.ReadFile(filepath.Join(dir, "modules.dep"))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, path := range dependencies(string(table), name) {
		err := loadModule(filepath.Join(dir, path))
		if errors.Is(err, os.ErrNotExist) {
			continue // built in, or loaded: then it is not in the initrd
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// dependencies returns the files that modules.dep says to load for the module of
// that name, in the order to load them.
func dependencies(table, name string) []string {
	for line := range strings.Lines(table) {
		module, needs, ok := strings.Cut(strings.TrimSpace(line), ":")
		if !ok || filepath.Base(module) != name+".ko" {
			continue
		}
		// What is needed first stands last.
		list := append([]string{module}, strings.Fields(needs)...)
		slices.Reverse(list)
		return list
	}
	return nil
}

func loadModule(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	err = unix.FinitModule(int(f.Fd()), "", 0)
	if err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("load module %q: %w", path, err)
	}
	return nil
}
