// Package dm makes the disks of VMs that are snapshots, with the kernel's loop
// devices and device mapper. It must run as root with CAP_SYS_ADMIN, starts no
// program and needs no udev.
//
//	/dev/dm-N "banger-<id>-disk0"
//	+-------------------------+----------+
//	| snapshot                | linear   |
//	+------------+------------+----------+
//	| loop       | loop       | loop     |
//	| read-only  |            |          |
//	+------------+------------+----------+
//	| image      | store      | tail     |   see package cow
//	+------------+------------+----------+
//
// Nothing of this has to be taken away: the loop devices go with the table, the
// table with the device, and the device when it is closed for the last time. Only
// who is killed in the moment before it is opened leaves one behind, which the next
// Open, or Sweep, removes.
package dm

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"banger/store/disk/cow"
)

// Probe tells why no snapshots can be made here, or nil. It lets the kernel load
// what it needs.
func Probe() error {
	c, err := openControl()
	if err != nil {
		return err
	}
	defer c.Close()
	for _, name := range []string{"snapshot", "linear"} {
		if _, _, err := c.do(request{command: unix.DM_GET_TARGET_VERSION, what: "find target " + name, name: name}); err != nil {
			return err
		}
	}
	if _, err := os.Stat("/dev/loop-control"); err != nil {
		return fmt.Errorf("find loop devices: %w", err)
	}
	return nil
}

// usage is how much of an exception store is in use.
type usage struct {
	usedSectors  int64 // with its metadata
	totalSectors int64
}

// parseUsage reads the status line of a snapshot: "<used>/<total> <metadata>", or
// a word for why there is none.
func parseUsage(line string) (u usage, err error) {
	var metadata int64
	if _, err := fmt.Sscanf(line, "%d/%d %d", &u.usedSectors, &u.totalSectors, &metadata); err != nil {
		return usage{}, fmt.Errorf("%w: the kernel says %q", cow.ErrBroken, line)
	}
	return u, nil
}

// table returns the lines of a device's table, or with their status for parameters.
func (c *control) table(name string, flags uint32) ([]target, error) {
	head, data, err := c.do(request{command: unix.DM_TABLE_STATUS, what: "read table", name: name, flags: flags})
	if err != nil {
		return nil, err
	}
	lines, err := decode(data, head.Target_count)
	if err == nil && (len(lines) == 0 || lines[0].kind != "snapshot") {
		err = errors.New("read table: it is not that of a snapshot")
	}
	return lines, err
}

// Sweep removes the devices that nobody has open, of whatever VM: those who made
// them were killed.
func Sweep(ctx context.Context) error {
	c, err := openControl()
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENODEV) {
		return nil // no device mapper, no devices
	}
	if err != nil {
		return err
	}
	defer c.Close()
	if err := c.lock(ctx); err != nil {
		return err
	}
	return c.sweep()
}

// sweep is Sweep with the lock, under which alone there is a device that nobody
// has open yet.
func (c *control) sweep() error {
	_, data, err := c.do(request{command: unix.DM_LIST_DEVICES, what: "list devices"})
	if err != nil {
		return err
	}
	var errs []error
	for _, name := range names(data) {
		if !strings.HasPrefix(name, strings.ToLower(prefix)) {
			continue
		}
		head, _, err := c.do(request{command: unix.DM_DEV_STATUS, what: "look at device", name: name})
		if err != nil || head.Open_count > 0 || !bytes.HasPrefix(head.Uuid[:], []byte(prefix)) {
			continue // gone meanwhile, in use, or somebody else's
		}
		errs = append(errs, c.remove(name, 0))
	}
	return errors.Join(errs...)
}

// names reads a list of struct dm_name_list: device, offset of the next, name.
func names(data []byte) []string {
	const head = 12
	var list []string
	for at := 0; at+head < len(data); {
		dev, next := binary.NativeEndian.Uint64(data[at:]), int(binary.NativeEndian.Uint32(data[at+8:]))
		name, _, ok := bytes.Cut(data[at+head:], []byte{0})
		if dev == 0 || !ok {
			break // there is none, or the list is cut short
		}
		list = append(list, string(name))
		if next < head {
			break
		}
		at += next
	}
	return list
}

// remove removes a device, now or, with DM_DEFERRED_REMOVE, when it is closed. One
// that is gone is no error.
func (c *control) remove(name string, flags uint32) error {
	_, _, err := c.do(request{command: unix.DM_DEV_REMOVE, what: "remove device", name: name, flags: flags})
	if errors.Is(err, unix.ENXIO) {
		return nil
	}
	return err
}

// Await waits until the disk of a VM whose VMM has ended is gone, which takes the
// kernel a moment. It needs no right.
func Await(ctx context.Context, id string) error {
	for {
		there, err := exists(prefix + id + "-disk0")
		if err != nil || !there {
			return err
		}
		if pause(ctx) != nil {
			return fmt.Errorf("wait for the end of VM %s: %w", id, ErrBusy)
		}
	}
}

func exists(uuid string) (bool, error) {
	paths, err := filepath.Glob("/sys/block/dm-*/dm/uuid")
	if err != nil {
		return false, err
	}
	for _, path := range paths {
		if text, err := os.ReadFile(path); err == nil && strings.TrimSpace(string(text)) == uuid {
			return true, nil
		}
	}
	return false, nil
}
