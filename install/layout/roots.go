package layout

import (
	"errors"
	"fmt"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// OnlyRoots refuses, as ErrForeign, a path that others than root could change: it and every
// directory above it must be root's, and writable by root alone.
func OnlyRoots(path string) error {
	for p := path; ; p = filepath.Dir(p) {
		var st unix.Stat_t
		err := unix.Lstat(p, &st)
		switch {
		case errors.Is(err, unix.ENOENT):
		case err != nil:
			return fmt.Errorf("look at %s: %w", p, err)
		case st.Mode&unix.S_IFMT == unix.S_IFLNK:
			if st.Uid != 0 {
				return fmt.Errorf("%w: %s is a link of uid %d", ErrForeign, p, st.Uid)
			}
			to, err := filepath.EvalSymlinks(p)
			if err != nil {
				return fmt.Errorf("look at %s: %w", p, err)
			}
			if err := OnlyRoots(to); err != nil {
				return err
			}
		case st.Uid != 0 || st.Mode&0o022 != 0:
			return fmt.Errorf("%w: %s has mode %04o and belongs to uid %d: only root may be able to change it", ErrForeign, p, st.Mode&0o7777, st.Uid)
		}
		if p == "/" || p == "." {
			return nil
		}
	}
}
