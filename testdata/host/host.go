// Package host makes throw-away Linux hosts for end-to-end tests: a tree of
// processes in namespaces of its own, with the network, devices, users and
// state directories that a freshly installed machine would have. The file
// system below is the machine's own, /tmp included.
//
//	          namespace of the host                 namespace "server"
//	+---------------------------------------+   +----------------------+
//	| lo            uplink 198.51.100.1/24  +---+ eth0 198.51.100.2/24 |
//	|               uplink 192.168.77.1/24  |   |      192.168.77.2/24 |
//	+---------------------------------------+   +----------------------+
//
// The program that uses it calls [Main] before anything else, since the first
// process of a host is that same program.
package host

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// The addresses of a host's uplink and of the server beyond it, once in a
// public range and once in a private one.
const (
	Address        = "198.51.100.1"
	Server         = "198.51.100.2"
	PrivateAddress = "192.168.77.1"
	PrivateServer  = "192.168.77.2"
)

// Config says how a host differs from the usual one.
type Config struct {
	// Banger is the path of the binary that the host's `banger` is.
	Banger string
	// Seed is a directory whose content /var/lib starts with, made by
	// [Host.Save]. Nothing if empty.
	Seed string
	// StateFS, where it is not empty, is the type of a small file system of
	// StateMiB mebibytes that /var/lib is: ext4, xfs or btrfs.
	StateFS  string
	StateMiB int
}

// Host is a running throw-away host. It ends with the test that made it.
type Host struct {
	t      testing.TB
	config Config
	dir    string // of the host, on the machine; removed at the end
	pid    int    // of the host's first process, as the machine sees it
	cmd    *exec.Cmd
	stop   io.Closer // the first process ends when this is closed
}

// New makes a host. It skips the test where the machine cannot have one.
func New(t testing.TB, config Config) *Host {
	t.Helper()
	Require(t)
	h := &Host{t: t, config: config, dir: t.TempDir()}
	// Users of the host pass through here to what is theirs.
	for dir := h.dir; dir != os.TempDir() && dir != "/"; dir = filepath.Dir(dir) {
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := h.prepare(); err != nil {
		t.Fatalf("prepare host: %v", err)
	}
	if err := h.boot(); err != nil {
		t.Fatalf("boot host: %v", err)
	}
	t.Cleanup(h.halt)
	return h
}

// Require skips the test where the machine cannot have a host.
func Require(t testing.TB) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	for _, tool := range []string{"nsenter", "setpriv", "ip", "mount", "qemu-system-x86_64"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("needs %s", tool)
		}
	}
	if _, err := os.Stat("/dev/net/tun"); err != nil {
		t.Skip("needs /dev/net/tun")
	}
}

// prepare makes the directories that the host's state lies in.
func (h *Host) prepare() error {
	for _, dir := range []string{"lib", "home/" + OwnerName, RootHome} {
		if err := os.MkdirAll(filepath.Join(h.dir, dir), 0o755); err != nil {
			return err
		}
	}
	if err := os.Chown(filepath.Join(h.dir, "home", OwnerName), OwnerID, OwnerID); err != nil {
		return err
	}
	if h.config.StateFS == "" {
		return nil
	}
	return makeFS(filepath.Join(h.dir, "state.img"), h.config.StateFS, h.config.StateMiB)
}

// boot starts the host's first process and waits until it is ready.
func (h *Host) boot() error {
	lifeR, lifeW, err := os.Pipe()
	if err != nil {
		return err
	}
	defer lifeR.Close()
	readyR, readyW, err := os.Pipe()
	if err != nil {
		lifeW.Close()
		return err
	}
	defer readyR.Close()
	cmd := exec.Command("/proc/self/exe")
	cmd.Args = []string{firstProcess, h.dir, h.config.StateFS, h.config.Seed}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = lifeR, readyW, readyW
	cmd.Env = []string{"PATH=" + path}
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWNET | syscall.CLONE_NEWPID | syscall.CLONE_NEWUTS | syscall.CLONE_NEWIPC,
		Setsid:     true,
	}
	err = cmd.Start()
	readyW.Close()
	if err != nil {
		lifeW.Close()
		return err
	}
	h.cmd, h.pid, h.stop = cmd, cmd.Process.Pid, lifeW
	line, err := bufio.NewReader(readyR).ReadString('\n')
	if err == nil && line != "ready\n" {
		err = errors.New(strings.TrimSpace(line))
	}
	if err != nil {
		h.halt()
		return fmt.Errorf("first process: %w", err)
	}
	return nil
}

// halt ends the host's first process, and with it every process of the host.
func (h *Host) halt() {
	h.stop.Close()
	h.cmd.Wait()
}

// Path returns where the machine sees a file of the host.
func (h *Host) Path(name string) string {
	return filepath.Join(fmt.Sprintf("/proc/%d/root", h.pid), name)
}

// Banger returns the path of the binary under test.
func (h *Host) Banger() string { return h.config.Banger }

// Dir returns a directory that both the machine and every user of the host
// can read and write, at the same path.
func (h *Host) Dir() string {
	dir := filepath.Join(h.dir, "shared")
	if err := os.MkdirAll(dir, 0o777); err != nil {
		h.t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o777); err != nil {
		h.t.Fatal(err)
	}
	return dir
}

// Save copies the host's /var/lib to dir, for a [Config.Seed]. No daemon may
// run.
func (h *Host) Save(dir string) error { return copyTree(h.Path("/var/lib"), dir) }

func makeFS(image, fs string, sizeMiB int) error {
	if err := os.WriteFile(image, nil, 0o600); err != nil {
		return err
	}
	if err := os.Truncate(image, int64(sizeMiB)<<20); err != nil {
		return err
	}
	return command("mkfs."+fs, "-q", image)
}

// copyTree copies the content of from into to, sharing blocks where it can.
func copyTree(from, to string) error {
	if err := os.MkdirAll(to, 0o755); err != nil {
		return err
	}
	return command("cp", "-a", "--reflink=auto", "--sparse=auto", from+"/.", to)
}

// command runs a program of the machine and puts what it said in its error.
func command(name string, args ...string) error {
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, strings.TrimSpace(string(out)))
	}
	return nil
}
