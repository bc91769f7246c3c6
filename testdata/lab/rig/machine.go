package rig

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os/exec"
	"path/filepath"
	"strconv"
	"time"

	"banger/personas/vmm/qmp"
	"banger/testdata/lab/tree"
)

// Files of an emulated machine, in its directory.
const (
	agentSocket = "agent.sock"
	qmpSocket   = "qmp.sock"
	diskFile    = "disk.qcow2"
	sharedFile  = "shared.ext4"
)

// machineCPUs is how many processors a machine has.
const machineCPUs = 2

// machine is a host that QEMU emulates, with a processor that has SVM. Its
// keeper is a process of its own, so that all is cleared away even when this
// one is killed.
type machine struct {
	dir    string
	keeper *keeper
	qmp    *qmp.Conn
}

// startMachine starts a host from the saved state, which it makes first if
// there is none.
func startMachine(ctx context.Context, dir string, t tree.Tree, agent string, config Config) (*machine, error) {
	saved, err := openState(ctx, t, agent, config.Tell)
	if err != nil {
		return nil, fmt.Errorf("prepare machine: %w", err)
	}
	if err := run(ctx, "qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", saved.disk, filepath.Join(dir, diskFile)); err != nil {
		return nil, err
	}
	if err := makeShared(ctx, filepath.Join(dir, sharedFile), config.Files); err != nil {
		return nil, err
	}
	m, err := launch(ctx, dir, t, saved.initrd, saved.memory)
	if err != nil {
		return nil, err
	}
	if err := m.resume(ctx); err != nil {
		return nil, errors.Join(err, m.close())
	}
	return m, nil
}

// launch starts QEMU with the disks that are in dir: with an empty memory, or
// with a saved one, which it then loads and stops.
func launch(ctx context.Context, dir string, t tree.Tree, initrd, memory string) (*machine, error) {
	at := func(name string) string { return filepath.Join(dir, name) }
	args := []string{
		"qemu-system-x86_64", "-M", "q35", "-accel", "tcg,thread=multi,tb-size=128", "-cpu", "max,+svm,+npt", "-m", "3072", "-smp", strconv.Itoa(machineCPUs),
		"-nodefaults", "-display", "none", "-no-user-config",
		"-kernel", t.Kernel, "-initrd", initrd, "-append", "console=ttyS0 quiet panic=10 mitigations=off",
		"-drive", "format=qcow2,if=virtio,cache=unsafe,file=" + at(diskFile),
		"-drive", "format=raw,if=virtio,cache=unsafe,file=" + at(sharedFile),
		"-device", "virtio-serial-pci", "-chardev", "socket,id=agent,server=on,wait=off,path=" + at(agentSocket),
		"-device", "virtserialport,chardev=agent,name=lab",
		"-device", "virtio-rng-pci", "-serial", "file:" + at(consoleFile),
		"-qmp", "unix:" + at(qmpSocket) + ",server=on,wait=off",
	}
	if memory != "" {
		args = append(args, "-incoming", "exec:cat "+memory)
	}
	k, err := startKeeper(world{Dir: dir, Program: args})
	if err != nil {
		return nil, err
	}
	m := &machine{dir: dir, keeper: k}
	if err := m.connect(ctx); err != nil {
		return nil, errors.Join(err, m.close())
	}
	return m, nil
}

// connect connects to QEMU's control socket.
func (m *machine) connect(ctx context.Context) error {
	conn, err := m.dialSocket(ctx, qmpSocket)
	if err != nil {
		return err
	}
	m.qmp = qmp.New(conn, func(qmp.Event) {})
	return m.qmp.Handshake(ctx)
}

// dialSocket connects to a socket that QEMU makes when it starts.
func (m *machine) dialSocket(ctx context.Context, name string) (*net.UnixConn, error) {
	address := &net.UnixAddr{Name: filepath.Join(m.dir, name), Net: "unix"}
	for {
		conn, err := net.DialUnix("unix", nil, address)
		if err == nil || ctx.Err() != nil {
			return conn, err
		}
		select {
		case <-m.keeper.done:
			return nil, fmt.Errorf("machine has ended: %s", m.keeper.said)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// resume lets the machine go on from its saved state, once that is loaded.
func (m *machine) resume(ctx context.Context) error {
	for {
		var status struct {
			Status string `json:"status"`
		}
		if err := m.qmp.Execute(ctx, "query-status", nil, &status); err != nil {
			return err
		}
		if status.Status == "paused" {
			return m.qmp.Execute(ctx, "cont", nil, nil)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// migrated waits until the machine's memory is saved.
func (m *machine) migrated(ctx context.Context) error {
	for {
		var info struct {
			Status string `json:"status"`
			Desc   string `json:"error-desc"`
		}
		if err := m.qmp.Execute(ctx, "query-migrate", nil, &info); err != nil {
			return err
		}
		switch info.Status {
		case "completed":
			return nil
		case "failed", "cancelled":
			return fmt.Errorf("save machine: %s %s", info.Status, info.Desc)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func (m *machine) dial(ctx context.Context) (io.ReadWriteCloser, error) {
	return m.dialSocket(ctx, agentSocket)
}

// welcome does what a machine needs that was just restored or has just booted:
// its clock stood still, and its shared files are a disk.
func (m *machine) welcome() string {
	return fmt.Sprintf("date -s @%d.%09d >/dev/null && { mountpoint -q %[3]s || mount -o ro /dev/vdb %[3]s; }",
		time.Now().Unix(), time.Now().Nanosecond(), Shared)
}

func (m *machine) crash() error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	return m.qmp.Execute(ctx, "system_reset", nil, nil)
}

func (m *machine) close() error {
	if m.qmp != nil {
		m.qmp.Close()
	}
	return m.keeper.close()
}

// run runs a program of this machine and puts what it said in its error.
func run(ctx context.Context, name string, args ...string) error {
	out, err := exec.CommandContext(ctx, name, args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s: %w: %s", name, err, out)
	}
	return nil
}
