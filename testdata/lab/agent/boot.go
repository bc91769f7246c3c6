package main

import (
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// disk is the root disk of an emulated machine.
const disk = "/dev/vda"

// boot loads the modules that lie in the initrd, in the order of their names,
// mounts the disk and starts what is there. It returns only with an error.
func boot() error {
	if err := unix.Mount("devtmpfs", "/dev", "devtmpfs", 0, ""); err != nil {
		return fmt.Errorf("mount /dev: %w", err)
	}
	modules, err := os.ReadDir("/modules")
	if err != nil {
		return err
	}
	for _, m := range modules {
		if err := load("/modules/" + m.Name()); err != nil {
			return fmt.Errorf("load %s: %w", m.Name(), err)
		}
	}
	for range 500 {
		if err = unix.Mount(disk, "/root", "ext4", unix.MS_NOATIME, ""); err == nil {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	if err != nil {
		return fmt.Errorf("mount %s: %w", disk, err)
	}
	if err := unix.Mount("/dev", "/root/dev", "", unix.MS_MOVE, ""); err != nil {
		return fmt.Errorf("move /dev: %w", err)
	}
	if err := settle(); err != nil {
		return fmt.Errorf("settle agent: %w", err)
	}
	if err := os.Chdir("/root"); err != nil {
		return err
	}
	if err := unix.Mount(".", "/", "", unix.MS_MOVE, ""); err != nil {
		return fmt.Errorf("move root: %w", err)
	}
	if err := unix.Chroot("."); err != nil {
		return err
	}
	return unix.Exec("/sbin/init", []string{"/sbin/init"}, os.Environ())
}

// settle puts the agent where the host's unit starts it, and its way out beside it.
func settle() error {
	if err := unix.Mount("tmpfs", "/root/run", "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=755"); err != nil {
		return err
	}
	const dir = "/root/run/lab"
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	self, err := os.ReadFile("/init")
	if err != nil {
		return err
	}
	if err := os.WriteFile(dir+"/agent", self, 0o700); err != nil {
		return err
	}
	return os.Symlink("/dev/virtio-ports/lab", dir+"/port")
}

func load(name string) error {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	return unix.FinitModule(int(f.Fd()), "", 0)
}
