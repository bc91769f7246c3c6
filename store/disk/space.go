package disk

import (
	"fmt"
	"io/fs"
	"os"

	"github.com/docker/go-units"
	"golang.org/x/sys/unix"
)

// overlayCost is what an empty file system takes on the host at the most, apart from
// its journal and tables, which are holes.
const overlayCost = 16 << 20

// checkSpace compares what the disk will take with what dir has.
func (s Spec) checkSpace(dir string) error {
	free, err := Free(dir)
	if err != nil {
		return err
	}
	cost, err := s.cost()
	if err != nil {
		return err
	}
	if free-cost < s.ReserveBytes {
		return fmt.Errorf("%w: %s free, %s needed, %s to be kept in reserve", ErrNoSpace,
			units.BytesSize(float64(free)), units.BytesSize(float64(cost)), units.BytesSize(float64(s.ReserveBytes)))
	}
	return nil
}

// cost returns how much of the host's space making the disk takes.
func (s Spec) cost() (int64, error) {
	switch s.Backend {
	case Overlay:
		return min(overlayCost, s.SizeBytes), nil
	case Snapshot:
		l, err := s.layout()
		return l.StoreBytes, err
	case Copy:
		return Allocated(s.Origin)
	}
	return 0, nil
}

// Free returns how many bytes the owner of this process can still write in dir.
func Free(dir string) (int64, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return 0, &fs.PathError{Op: "statfs", Path: dir, Err: err}
	}
	return int64(st.Bavail) * st.Frsize, nil
}

// Allocated returns how many bytes of the host's file system f takes; blocks that it
// shares with other files count in each of them.
func Allocated(f *os.File) (int64, error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return 0, &fs.PathError{Op: "stat", Path: f.Name(), Err: err}
	}
	return st.Blocks * sectorBytes, nil
}
