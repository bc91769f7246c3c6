package vmm

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"

	"banger/fc"
	"banger/fc/server"

	"golang.org/x/sys/unix"
)

// disk is a drive of the running guest.
type disk struct {
	id       string
	readOnly bool
	cache    fc.CacheType
	limiter  *fc.RateLimiter
	// file tells the drive's file from others.
	file os.FileInfo
	// node is the name of the node that has the file, set the number of its descriptor set.
	node string
	set  int
}

// identifyDisks remembers what the drives were made of.
func (m *machine) identifyDisks(drives []fc.Drive, l *launch) []disk {
	disks := make([]disk, len(drives))
	for i, d := range drives {
		info, err := m.drives[d.ID].Stat()
		if err != nil {
			info = nil
		}
		disks[i] = disk{
			id: d.ID, readOnly: d.ReadOnly, cache: d.CacheType, limiter: d.RateLimiter,
			file: info, node: fileNode(i), set: l.sets[m.drives[d.ID]],
		}
	}
	return disks
}

// changeDrive looks anew at the drive's file, or at another, and sets limits.
func (m *machine) changeDrive(ctx context.Context, r fc.DriveUpdate) error {
	index := slices.IndexFunc(m.disks, func(d disk) bool { return d.id == r.ID })
	if index < 0 {
		return fmt.Errorf("no drive %q", r.ID)
	}
	if r.Path != "" {
		if err := m.changeFile(ctx, index, r.Path); err != nil {
			return err
		}
	}
	if r.RateLimiter == nil {
		return nil
	}
	limiter := server.MergeLimit(m.disks[index].limiter, r.RateLimiter)
	err := m.qmp.Execute(ctx, "qom-set", map[string]any{
		"path": "/objects/" + groupName(index), "property": "limits", "value": limits(*limiter),
	}, nil)
	if err != nil {
		return err
	}
	m.disks[index].limiter = limiter
	return nil
}

// changeFile makes the file at path the drive's, and tells the guest how big it is. The
// same file again, grown, is how a disk is made bigger.
func (m *machine) changeFile(ctx context.Context, index int, path string) error {
	d := &m.disks[index]
	mode := unix.O_RDWR
	if d.readOnly {
		mode = unix.O_RDONLY
	}
	f, err := openDisk(path, mode)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return fmt.Errorf("find size of %s: %w", path, err)
	}
	if d.file == nil || !os.SameFile(d.file, info) {
		if err := m.exchangeFile(ctx, index, f, info); err != nil {
			return err
		}
	}
	if d.readOnly {
		return nil
	}
	// To the size that the file has: nothing happens to the file, but the guest is told.
	return m.qmp.Execute(ctx, "block_resize", map[string]any{"node-name": driveNode(index), "size": size}, nil)
}

// exchangeFile puts f under the drive in place of the file that it has.
func (m *machine) exchangeFile(ctx context.Context, index int, f *os.File, info os.FileInfo) error {
	d := &m.disks[index]
	m.sets++
	set := firstFreeSet + m.sets
	node := fmt.Sprintf("%s-%d", fileNode(index), m.sets)
	if err := m.qmp.ExecuteWithFile(ctx, "add-fd", map[string]int{"fdset-id": set}, nil, f); err != nil {
		return err
	}
	removeSet := func() error {
		return m.qmp.Execute(ctx, "remove-fd", map[string]int{"fdset-id": set}, nil)
	}
	options := fileOptions(f, node, fmt.Sprintf("/dev/fdset/%d", set), d.readOnly, d.cache)
	if err := m.qmp.Execute(ctx, "blockdev-add", options, nil); err != nil {
		return errors.Join(err, removeSet())
	}
	reopen := map[string]any{"options": []any{rawOptions(index, node, d.readOnly, d.cache)}}
	if err := m.qmp.Execute(ctx, "blockdev-reopen", reopen, nil); err != nil {
		remove := m.qmp.Execute(ctx, "blockdev-del", map[string]string{"node-name": node}, nil)
		return errors.Join(err, remove, removeSet())
	}
	former := *d
	d.file, d.node, d.set = info, node, set
	if err := m.qmp.Execute(ctx, "blockdev-del", map[string]string{"node-name": former.node}, nil); err != nil {
		return err
	}
	return m.qmp.Execute(ctx, "remove-fd", map[string]int{"fdset-id": former.set}, nil)
}

// firstFreeSet is above any descriptor set of a command line.
const firstFreeSet = 1000

// fileOptions describe the lowest node of a drive: its file.
func fileOptions(f *os.File, node, path string, readOnly bool, cache fc.CacheType) map[string]any {
	driver := "file"
	if info, err := f.Stat(); err == nil && info.Mode()&os.ModeDevice != 0 {
		driver = "host_device"
	}
	o := map[string]any{"driver": driver, "node-name": node, "filename": path, "locking": "off"}
	return withMode(o, readOnly, cache)
}

// rawOptions describe the node above it: its content is the disk's, no format is guessed.
func rawOptions(index int, file string, readOnly bool, cache fc.CacheType) map[string]any {
	o := map[string]any{"driver": "raw", "node-name": rawNode(index), "file": file}
	return withMode(o, readOnly, cache)
}

// throttleOptions describe the highest node, through which the guest goes.
func throttleOptions(index int, readOnly bool, cache fc.CacheType) map[string]any {
	o := map[string]any{"driver": "throttle", "node-name": driveNode(index), "throttle-group": groupName(index), "file": rawNode(index)}
	return withMode(o, readOnly, cache)
}

// withMode adds what all nodes of a drive agree in. An unsafe drive ignores flushes, as
// Firecracker's does; discards make holes in the file.
func withMode(o map[string]any, readOnly bool, cache fc.CacheType) map[string]any {
	o["discard"] = "unmap"
	o["read-only"] = readOnly
	o["cache"] = map[string]bool{"direct": false, "no-flush": cache != fc.CacheWriteback}
	return o
}
