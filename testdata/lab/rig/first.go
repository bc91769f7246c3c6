package rig

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

// becomeHost makes the world that a host's processes see, and becomes systemd
// in it. It returns only with an error.
func becomeHost(w world) error {
	runtime.LockOSThread() // unshare is a thread's, and exec takes this one
	steps := []struct {
		name string
		do   func() error
	}{
		{"cgroups", func() error { return unix.Unshare(unix.CLONE_NEWCGROUP) }},
		{"root", func() error { return mountRoot(w) }},
		{"kernel's file systems", func() error { return mountKernel(w) }},
		{"devices", func() error { return makeDevices(w.at("dev")) }},
		{"files", func() error { return bindFiles(w) }},
		{"boot id", func() error { return newBootID(w) }},
		{"new root", func() error { return enter(w.at("")) }},
		{"host name", func() error { return unix.Sethostname([]byte("lab")) }},
	}
	for _, s := range steps {
		if err := s.do(); err != nil {
			return fmt.Errorf("first process: %s: %w", s.name, err)
		}
	}
	// A coldplug would have this machine's own udev act on all its devices.
	argv := []string{"/lib/systemd/systemd", "systemd.unified_cgroup_hierarchy=1", "systemd.mask=systemd-udev-trigger.service"}
	env := []string{"container=lab", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
	return unix.Exec(argv[0], argv, env)
}

// at returns where a path of the host is until the root has changed.
func (w world) at(path string) string { return filepath.Join(w.Dir, rootDir, path) }

// mountRoot mounts the tree with a layer over it that takes what is written.
func mountRoot(w world) error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return err
	}
	layers := fmt.Sprintf("lowerdir=%s,upperdir=%s,workdir=%s", w.Tree, filepath.Join(w.Dir, upperDir), filepath.Join(w.Dir, workDir))
	return unix.Mount("overlay", w.at(""), "overlay", 0, layers)
}

func mountKernel(w world) error {
	const (
		noDev  = unix.MS_NOSUID | unix.MS_NODEV
		noExec = noDev | unix.MS_NOEXEC
	)
	for _, m := range []struct {
		fs, target string
		flags      uintptr
		data       string
	}{
		{"proc", "proc", noExec, ""},
		{"sysfs", "sys", noExec, ""},
		{"cgroup2", "sys/fs/cgroup", noExec, ""},
		{"tmpfs", "run", noDev, "mode=755"},
		{"tmpfs", "tmp", noDev, "mode=1777"},
		{"tmpfs", "dev", unix.MS_NOSUID, "mode=755"},
	} {
		if err := unix.Mount(m.fs, w.at(m.target), m.fs, m.flags, m.data); err != nil {
			return fmt.Errorf("mount %s: %w", m.target, err)
		}
	}
	// What is not the network's is the whole machine's.
	for _, name := range []string{"kernel", "fs", "vm", "dev"} {
		if err := bind(w.at("proc/sys/"+name), w.at("proc/sys/"+name), unix.MS_RDONLY); err != nil {
			return err
		}
	}
	return nil
}

// makeDevices makes the nodes that udev expects of the kernel.
func makeDevices(dev string) error {
	nodes := []string{"null", "zero", "full", "random", "urandom", "tty", "net/tun", "fuse", "loop-control"}
	for _, name := range nodes {
		if err := copyNode("/dev/"+name, filepath.Join(dev, name)); err != nil {
			return err
		}
	}
	// The kernel gives any free number, and makes no node here.
	for i := range 64 {
		if err := unix.Mknod(fmt.Sprintf("%s/loop%d", dev, i), unix.S_IFBLK|0o660, int(unix.Mkdev(7, uint32(i)))); err != nil {
			return err
		}
	}
	for link, target := range map[string]string{
		"ptmx": "pts/ptmx", "fd": "/proc/self/fd", "stdin": "fd/0", "stdout": "fd/1", "stderr": "fd/2",
	} {
		if err := os.Symlink(target, filepath.Join(dev, link)); err != nil {
			return err
		}
	}
	for _, m := range []struct{ fs, target, data string }{
		{"devpts", "pts", "newinstance,ptmxmode=666,mode=620,gid=5"},
		{"tmpfs", "shm", "mode=1777"},
	} {
		target := filepath.Join(dev, m.target)
		if err := os.Mkdir(target, 0o755); err != nil {
			return err
		}
		if err := unix.Mount(m.fs, target, m.fs, unix.MS_NOSUID|unix.MS_NOEXEC, m.data); err != nil {
			return fmt.Errorf("mount %s: %w", target, err)
		}
	}
	return nil
}

// copyNode makes the device node to with the number and mode of from. A node
// that the machine lacks is left out.
func copyNode(from, to string) error {
	var st unix.Stat_t
	if err := unix.Stat(from, &st); errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return err
	}
	if err := unix.Mknod(to, st.Mode, int(st.Rdev)); err != nil {
		return fmt.Errorf("make node %s: %w", to, err)
	}
	return os.Chmod(to, os.FileMode(st.Mode&0o777))
}

// bindFiles puts the agent, its way out and the shared files where the host has them.
func bindFiles(w world) error {
	port := w.at("run/lab")
	if err := os.Mkdir(port, 0o700); err != nil {
		return err
	}
	if err := unix.Mount("tmpfs", port, "tmpfs", 0, "mode=700"); err != nil {
		return err
	}
	if err := bindFile(filepath.Join(w.Dir, portDir, "port"), port+"/port", 0); err != nil {
		return err
	}
	if err := bindFile(w.Agent, port+"/agent", unix.MS_RDONLY); err != nil {
		return err
	}
	shared := w.at(Shared)
	if err := unix.Mount("tmpfs", shared, "tmpfs", 0, "mode=755"); err != nil {
		return err
	}
	for name, file := range w.Files {
		if err := bindFile(file, filepath.Join(shared, name), unix.MS_RDONLY); err != nil {
			return err
		}
	}
	return nil
}

// newBootID gives the host a boot id of its own, where the kernel has one for all.
func newBootID(w world) error {
	const name = "proc/sys/kernel/random/"
	id, err := os.Open("/proc/sys/kernel/random/uuid")
	if err != nil {
		return err
	}
	defer id.Close()
	file := w.at("run/lab/boot_id")
	out, err := os.Create(file)
	if err != nil {
		return err
	}
	defer out.Close()
	if _, err := io.Copy(out, id); err != nil {
		return err
	}
	return bind(file, w.at(name+"boot_id"), unix.MS_RDONLY)
}

// bindFile mounts a file on a new one.
func bindFile(from, to string, flags uintptr) error {
	f, err := os.Create(to)
	if err != nil {
		return err
	}
	f.Close()
	return bind(from, to, flags)
}

func bind(from, to string, flags uintptr) error {
	err := unix.Mount(from, to, "", unix.MS_BIND, "")
	if err == nil && flags != 0 {
		err = unix.Mount("", to, "", unix.MS_BIND|unix.MS_REMOUNT|flags, "")
	}
	if err != nil {
		return fmt.Errorf("bind %s on %s: %w", from, strings.TrimPrefix(to, "/proc"), err)
	}
	return nil
}

// enter makes root the root, and takes away the old one.
func enter(root string) error {
	if err := os.Chdir(root); err != nil {
		return err
	}
	if err := unix.PivotRoot(".", "."); err != nil {
		return fmt.Errorf("pivot_root: %w", err)
	}
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return fmt.Errorf("unmount old root: %w", err)
	}
	return os.Chdir("/")
}
