package disk

import (
	"errors"
	"fmt"
	"os"
)

// Finding is what Probe found out about one backend.
type Finding struct {
	Backend Backend
	// Err is nil if the backend works, else says why it does not.
	Err error
}

// Probe tries every backend in dir and returns what it found, best first. An error
// means that nothing can be made there at all. What the kernel lacks for snapshots is
// not seen there: it is given, nil where it lacks nothing (see cow.Loaded, and dm.Probe
// for who has the right).
func Probe(dir string, snapshots error) ([]Finding, error) {
	reflink := tryClone(dir)
	if reflink != nil && !errors.Is(reflink, ErrUnsupported) {
		return nil, fmt.Errorf("probe disk backends in %q: %w", dir, reflink)
	}
	if snapshots == nil {
		snapshots = tryAllocate(dir)
	}
	return []Finding{{Reflink, reflink}, {Snapshot, snapshots}, {Overlay, nil}, {Copy, nil}}, nil
}

// Choose returns the best backend that works, of those that make a disk for nothing:
// Copy must be asked for.
func Choose(findings []Finding) Backend {
	for _, f := range findings {
		if f.Err == nil && f.Backend != Copy {
			return f.Backend
		}
	}
	return Overlay
}

// tryClone clones a small file in dir: what a file system says about itself is not
// what it can do.
func tryClone(dir string) error {
	src, err := scratch(dir)
	if err != nil {
		return err
	}
	defer src.Close()
	dst, err := scratch(dir)
	if err != nil {
		return err
	}
	defer dst.Close()
	if _, err := src.Write(make([]byte, probeBytes)); err != nil {
		return err
	}
	return clone(dst, src)
}

// probeBytes is a block of any file system.
const probeBytes = 64 << 10

// scratch returns a file without a name, which is gone when it is closed.
func scratch(dir string) (*os.File, error) {
	f, err := os.CreateTemp(dir, ".probe-*")
	if err != nil {
		return nil, err
	}
	if err := os.Remove(f.Name()); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}
