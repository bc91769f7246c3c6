package doctor

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// With less than this, an image cannot be imported, or only a small one.
const (
	noSpace     = 1 << 30
	littleSpace = 5 << 30
)

// space looks at the file system that holds, or will hold, images and disks.
func (h Host) space(context.Context) Result {
	dir := h.stateDir()
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return Result{Fail, fmt.Sprintf("look at %s: %v", dir, err), "see that the directory exists and can be read"}
	}
	free := st.Bavail * uint64(st.Bsize)
	detail := fmt.Sprintf("%.1f GiB free in %s", float64(free)/(1<<30), dir)
	const hint = "make room there, or delete images and VMs"
	switch {
	case st.Flags&unix.ST_RDONLY != 0:
		return Result{Fail, dir + " is on a file system that cannot be written", "choose another directory for the state"}
	case free < noSpace:
		return Result{Fail, detail, hint}
	case free < littleSpace:
		return Result{Warn, detail, hint}
	}
	return Result{OK, detail, ""}
}

// stateDir is the directory of the state, or, while that is not made yet, the
// nearest one above it that exists.
func (h Host) stateDir() string {
	dir := filepath.Clean(h.StateDir)
	for {
		if info, err := os.Stat(dir); err == nil && info.IsDir() {
			return dir
		}
		above := filepath.Dir(dir)
		if above == dir {
			return dir
		}
		dir = above
	}
}
