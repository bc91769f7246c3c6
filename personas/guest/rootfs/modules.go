package rootfs

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
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
