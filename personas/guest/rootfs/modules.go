package rootfs

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"banger/personas/guest/modprobe"
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
			path = filepath.Join(modprobe.Dir(release), path)
		}
		if err := modprobe.LoadFile(path); err != nil {
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
	dir := modprobe.Dir(release)
	table, err := os.ReadFile(filepath.Join(dir, "modules.dep"))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, path := range modprobe.Dependencies(string(table), name) {
		err := modprobe.LoadFile(filepath.Join(dir, path))
		if errors.Is(err, os.ErrNotExist) {
			continue // built in, or loaded: then it is not in the initrd
		}
		if err != nil {
			return err
		}
	}
	return nil
}
