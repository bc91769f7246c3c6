package host

import (
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// firstProcess is argv[0] of a host's first process.
const firstProcess = "banger-test-host"

const path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// The user who owns banger on a host, where it is not plain root.
const (
	OwnerName = "owner"
	OwnerID   = 1000 // both uid and gid
)

// Main returns at once, unless the program was started as a host's first
// process: then it is that and does not return.
func Main() {
	if os.Args[0] != firstProcess {
		return
	}
	if err := setUp(os.Args[1], os.Args[2], os.Args[3]); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Println("ready")
	go func() {
		io.Copy(io.Discard, os.Stdin) // until the test ends
		os.Exit(0)
	}()
	reap()
}

// reap waits for every process that lost its parent, as a first process must.
func reap() {
	children := make(chan os.Signal, 1)
	signal.Notify(children, syscall.SIGCHLD)
	for {
		for {
			pid, err := syscall.Wait4(-1, nil, syscall.WNOHANG, nil)
			if pid <= 0 || err != nil {
				break
			}
		}
		<-children
	}
}

// setUp makes the world that the host's processes see.
func setUp(dir, stateFS, seed string) error {
	steps := []struct {
		name string
		do   func() error
	}{
		{"mounts", func() error { return mounts(dir, stateFS) }},
		{"seed", func() error { return plant(seed) }},
		{"devices", devices},
		{"files in /etc", func() error { return etc(dir) }},
		{"network", network},
		{"hostname", func() error { return unix.Sethostname([]byte("testhost")) }},
	}
	for _, s := range steps {
		if err := s.do(); err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
	}
	return nil
}

func mounts(dir, stateFS string) error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return err
	}
	const noExec = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
	for _, m := range []struct {
		source, target, fs string
		flags              uintptr
		data               string
	}{
		{"proc", "/proc", "proc", noExec, ""},
		{"sysfs", "/sys", "sysfs", noExec, ""},
		{"cgroup2", "/sys/fs/cgroup", "cgroup2", noExec, ""},
		{"tmpfs", "/run", "tmpfs", unix.MS_NOSUID | unix.MS_NODEV, "mode=755"},
		{filepath.Join(dir, "home"), "/home", "", unix.MS_BIND, ""},
		{filepath.Join(dir, "lib"), "/var/lib", "", unix.MS_BIND, ""},
	} {
		if err := unix.Mount(m.source, m.target, m.fs, m.flags, m.data); err != nil {
			return fmt.Errorf("mount %s: %w", m.target, err)
		}
	}
	if stateFS == "" {
		return nil
	}
	return command("mount", "-o", "loop", "-t", stateFS, filepath.Join(dir, "state.img"), "/var/lib")
}

// plant fills /var/lib.
func plant(seed string) error {
	if seed == "" {
		return nil
	}
	return copyTree(seed, "/var/lib")
}

// devices makes a /dev as a machine without udev has it: /dev/net/tun is
// root's alone.
func devices() error {
	const dev = "/run/dev"
	if err := os.Mkdir(dev, 0o755); err != nil {
		return err
	}
	if err := unix.Mount("tmpfs", dev, "tmpfs", unix.MS_NOSUID, "mode=755"); err != nil {
		return err
	}
	nodes := []string{"null", "zero", "full", "random", "urandom", "tty", "net/tun", "loop-control", "kvm", "fuse"}
	loops, err := filepath.Glob("/dev/loop[0-9]*")
	if err != nil {
		return err
	}
	for _, l := range loops {
		nodes = append(nodes, filepath.Base(l))
	}
	for _, name := range nodes {
		if err := copyNode("/dev/"+name, filepath.Join(dev, name)); err != nil {
			return err
		}
	}
	if err := os.Chmod(dev+"/net/tun", 0o600); err != nil {
		return err
	}
	for link, target := range map[string]string{
		"ptmx": "pts/ptmx", "fd": "/proc/self/fd", "stdin": "fd/0", "stdout": "fd/1", "stderr": "fd/2",
	} {
		if err := os.Symlink(target, filepath.Join(dev, link)); err != nil {
			return err
		}
	}
	for _, name := range []string{"pts", "shm"} {
		if err := os.Mkdir(filepath.Join(dev, name), 0o755); err != nil {
			return err
		}
	}
	if err := unix.Mount("devpts", dev+"/pts", "devpts", unix.MS_NOSUID|unix.MS_NOEXEC, "newinstance,ptmxmode=666,mode=620"); err != nil {
		return err
	}
	if err := unix.Mount("tmpfs", dev+"/shm", "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=1777"); err != nil {
		return err
	}
	if err := unix.Mount(dev, "/dev", "", unix.MS_MOVE, ""); err != nil {
		return err
	}
	return os.Remove(dev)
}

// copyNode makes the device node to with the number and mode of from. A node
// that the machine lacks is left out.
func copyNode(from, to string) error {
	var st unix.Stat_t
	if err := unix.Stat(from, &st); err != nil {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return err
	}
	if err := unix.Mknod(to, st.Mode, int(st.Rdev)); err != nil {
		return fmt.Errorf("make node %s: %w", to, err)
	}
	if err := os.Chmod(to, os.FileMode(st.Mode&0o777)); err != nil {
		return err
	}
	return os.Chown(to, int(st.Uid), int(st.Gid))
}

// etc gives the host the owner's account and a resolver beyond the uplink.
func etc(dir string) error {
	for name, line := range map[string]string{
		"passwd":      fmt.Sprintf("%s:x:%d:%d::/home/%s:/bin/sh\n", OwnerName, OwnerID, OwnerID, OwnerName),
		"group":       fmt.Sprintf("%s:x:%d:\n", OwnerName, OwnerID),
		"resolv.conf": "nameserver " + Server + "\n",
	} {
		old := ""
		if name != "resolv.conf" {
			b, err := os.ReadFile("/etc/" + name)
			if err != nil {
				return err
			}
			old = without(string(b), ":"+fmt.Sprint(OwnerID)+":")
		}
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, []byte(old+line), 0o644); err != nil {
			return err
		}
		target, err := filepath.EvalSymlinks("/etc/" + name)
		if err != nil { // a link to what is not there on this /run
			target, err = os.Readlink("/etc/" + name)
			if err != nil {
				return err
			}
			target = filepath.Join("/etc", strings.TrimPrefix(target, "/etc"))
			if err := os.MkdirAll(filepath.Dir(target), 0o755); err != nil {
				return err
			}
			if err := os.WriteFile(target, nil, 0o644); err != nil {
				return err
			}
		}
		if err := unix.Mount(file, target, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("bind %s: %w", target, err)
		}
	}
	return nil
}

// without returns text without the lines that contain what.
func without(text, what string) string {
	var kept strings.Builder
	for line := range strings.Lines(text) {
		if !strings.Contains(line, what) {
			kept.WriteString(line)
		}
	}
	return kept.String()
}

func network() error {
	for _, line := range []string{
		"link set lo up",
		"netns add server",
		"link add uplink type veth peer name eth0 netns server",
		"-n server link set lo up",
		"-n server addr add " + Server + "/24 dev eth0",
		"-n server addr add " + PrivateServer + "/24 dev eth0",
		"-n server link set eth0 up",
		"addr add " + Address + "/24 dev uplink",
		"addr add " + PrivateAddress + "/24 dev uplink",
		"link set uplink up",
		"route add default via " + Server,
	} {
		if err := command("ip", strings.Fields(line)...); err != nil {
			return err
		}
	}
	return os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("0\n"), 0o644)
}
