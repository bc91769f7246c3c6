// Package rootfs takes a guest from the initrd to its root file system: the
// kernel's own file systems, the modules, the disk, and the switch from one root
// to the other. It runs once, as PID 1, before anything else does.
package rootfs

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// A mount is one file system of the kernel's.
type mount struct {
	target, fsType string
	flags          uintptr
	data           string
	// optional says that a kernel without it still runs a guest.
	optional bool
}

const noExec = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC

// kernelMounts is what every distribution mounts before its services start.
func kernelMounts() []mount {
	return []mount{
		{target: "/proc", fsType: "proc", flags: noExec},
		{target: "/sys", fsType: "sysfs", flags: noExec},
		{target: "/dev", fsType: "devtmpfs", flags: unix.MS_NOSUID, data: "mode=0755"},
		{target: "/run", fsType: "tmpfs", flags: unix.MS_NOSUID | unix.MS_NODEV, data: "mode=0755"},
		{target: "/dev/pts", fsType: "devpts", flags: unix.MS_NOSUID | unix.MS_NOEXEC, data: "gid=5,mode=620,ptmxmode=666"},
		{target: "/dev/shm", fsType: "tmpfs", flags: unix.MS_NOSUID | unix.MS_NODEV, data: "mode=1777", optional: true},
		{target: "/sys/fs/cgroup", fsType: "cgroup2", flags: noExec, data: "nsdelegate,memory_recursiveprot", optional: true},
	}
}

// deviceLinks are what udev would make in /dev.
func deviceLinks() map[string]string {
	return map[string]string{
		"/dev/fd":     "/proc/self/fd",
		"/dev/stdin":  "/proc/self/fd/0",
		"/dev/stdout": "/proc/self/fd/1",
		"/dev/stderr": "/proc/self/fd/2",
	}
}

// MountKernel mounts the kernel's file systems. What is mounted already stays.
// It returns the optional ones that are missing.
func MountKernel() (missing []error, err error) {
	for _, m := range kernelMounts() {
		err := m.mount()
		switch {
		case err == nil:
		case m.optional:
			missing = append(missing, err)
		default:
			return missing, err
		}
	}
	for link, target := range deviceLinks() {
		if err := os.Symlink(target, link); err != nil && !errors.Is(err, os.ErrExist) {
			missing = append(missing, err)
		}
	}
	return missing, nil
}

func (m mount) mount() error {
	if err := os.MkdirAll(m.target, 0o755); err != nil {
		return err
	}
	err := unix.Mount(m.fsType, m.target, m.fsType, m.flags, m.data)
	if errors.Is(err, unix.EINVAL) && m.fsType == "cgroup2" {
		// Before Linux 5.8 there is no memory_recursiveprot.
		err = unix.Mount(m.fsType, m.target, m.fsType, m.flags, "nsdelegate")
	}
	if err != nil && !errors.Is(err, unix.EBUSY) {
		return fmt.Errorf("mount %s at %q: %w", m.fsType, m.target, err)
	}
	return nil
}

// MountForOwnInit mounts what an image's own init would mount besides: it is for
// images without one. It returns what is missing.
func MountForOwnInit() (missing []error) {
	for _, m := range []mount{
		{target: "/dev/mqueue", fsType: "mqueue", flags: noExec},
		{target: "/sys/kernel/security", fsType: "securityfs", flags: noExec},
	} {
		if m.fsType == "securityfs" {
			if _, err := os.Stat(m.target); err != nil {
				continue // a kernel without security modules
			}
		}
		if err := m.mount(); err != nil {
			missing = append(missing, err)
		}
	}
	// /tmp stays on the disk, where it may be large; a container image may
	// have come without it.
	for dir, mode := range map[string]os.FileMode{"/tmp": 0o1777, "/var/tmp": 0o1777, "/run/lock": 0o1777} {
		if err := ensureDir(dir, mode); err != nil && !errors.Is(err, unix.EROFS) {
			missing = append(missing, err)
		}
	}
	return missing
}

// ensureDir makes a directory with exactly these mode bits, unless it is there.
func ensureDir(dir string, mode os.FileMode) error {
	if _, err := os.Stat(dir); err == nil {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return err
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	return unix.Chmod(dir, uint32(mode))
}
