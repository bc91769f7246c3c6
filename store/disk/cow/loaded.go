package cow

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
)

// ErrNotLoaded means that the kernel has no snapshots, or has not loaded them.
var ErrNotLoaded = errors.New("the kernel has not loaded it")

// ErrUnguarded is why there are no snapshots on a host without an installation: its
// scanners would take what a guest has written for the host's own, an LVM volume or
// the root's UUID.
var ErrUnguarded = errors.New("needs banger's udev rule, which \"banger system install\" writes")

// parts are what the kernel shows of itself, whoever asks, and what lets it do so.
var parts = []struct{ path, module string }{
	{"/sys/class/misc/device-mapper", "dm-mod"},
	{"/sys/module/dm_snapshot", "dm-snapshot"},
	{"/sys/class/misc/loop-control", "loop"},
}

// Loaded tells what the kernel lacks for snapshots, or nil.
func Loaded() error {
	for _, p := range parts {
		if _, err := os.Stat(p.path); errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("find %s: %w", p.module, ErrNotLoaded)
		} else if err != nil {
			return fmt.Errorf("find %s: %w", p.module, err)
		}
	}
	return nil
}
