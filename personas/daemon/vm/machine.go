package vm

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"banger/fc"
	"banger/ops"
	"banger/personas/api"
)

// machine is a VMM that runs, as the descriptors that the helper gave for it.
type machine struct {
	api    *fc.Client
	pidfd  *os.File
	hello  net.Listener
	run    *os.File // O_PATH: the folder of the VMM's sockets
	serial *os.File

	mtu  int    // of the VM's network, for the guest
	lost string // why its disk is, for the user; VM.mu guards it

	exited chan struct{} // closed when the VMM is gone
	over   chan struct{} // closed when it is gone, or let go of
}

// newMachine takes ownership of the descriptors of ops.VMStart.
func newMachine(files []*os.File) (*machine, error) {
	m := &machine{pidfd: files[1], run: files[3], serial: files[4], exited: make(chan struct{}), over: make(chan struct{})}
	conn, err := net.FileConn(files[0])
	files[0].Close()
	if err == nil {
		m.api = fc.NewClient(conn, nil)
		m.hello, err = net.FileListener(files[2])
	}
	files[2].Close()
	if err == nil {
		err = unix.SetNonblock(int(m.pidfd.Fd()), true)
	}
	if err != nil {
		m.close()
		return nil, fmt.Errorf("take over VMM: %w", err)
	}
	// A new File, because the poller looks at the mode once, when it is made.
	fd, err := unix.FcntlInt(m.pidfd.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		m.close()
		return nil, fmt.Errorf("take over VMM: %w", err)
	}
	m.pidfd.Close()
	m.pidfd = os.NewFile(uintptr(fd), "pidfd")
	go m.watch()
	return m, nil
}

// watch ends when the VMM does, or when the machine is closed.
func (m *machine) watch() {
	defer close(m.over)
	rc, err := m.pidfd.SyscallConn()
	if err != nil {
		return
	}
	err = rc.Read(func(fd uintptr) bool {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
		return n > 0 && err == nil
	})
	if err == nil {
		close(m.exited)
	}
}

func (m *machine) hasExited() bool {
	select {
	case <-m.exited:
		return true
	default:
		return false
	}
}

// close lets go of the descriptors. The VMM goes on.
func (m *machine) close() {
	if m.api != nil {
		m.api.Close()
	}
	if m.hello != nil {
		m.hello.Close()
	}
	for _, f := range []*os.File{m.pidfd, m.run, m.serial} {
		f.Close()
	}
}

// errExited means that the VMM ended while something was wanted of it.
var errExited = errors.New("the VMM exited")

// serialTail returns the last bytes of the serial log, at most limit.
func (m *machine) serialTail(limit int64) ([]byte, error) {
	info, err := m.serial.Stat()
	if err != nil {
		return nil, err
	}
	from := max(0, info.Size()-limit)
	return io.ReadAll(io.NewSectionReader(m.serial, from, limit))
}

// bootArgs is the kernel's command line. What is particular to a VM is not on
// it: the guest is told over vsock.
func bootArgs(emulated bool) string {
	const common = "console=ttyS0 quiet reboot=k panic=-1 8250.nr_uarts=1 i8042.noaux i8042.nomux i8042.dumbkbd " +
		"random.trust_cpu=on cryptomgr.notests"
	if emulated {
		// Nothing of the host is at stake in a guest whose CPU is a program, and
		// each mitigation costs it dearly.
		return common + " mitigations=off"
	}
	return common
}

// configureTimeout bounds the time from a VMM that answers to InstanceStart
// done: an emulated one starts QEMU meanwhile, on a host that may be busy.
const configureTimeout = time.Minute

// configure says over the API what the VM has, and starts it. The VMM may take
// limit for all of it: one that accepts and never answers holds up nobody.
func (m *machine) configure(ctx context.Context, limit time.Duration, r *Record, disks []disk, tap string) error {
	ctx, cancel := context.WithTimeoutCause(ctx, limit,
		&api.Error{Code: api.CodeTimeout, Message: fmt.Sprintf("the VMM did not answer within %v", limit)})
	defer cancel()
	args := bootArgs(r.Emulated)
	requests := []fc.Request{
		fc.MachineConfig{VCPUCount: r.Spec.CPUs, MemSizeMiB: r.Spec.MemMiB},
		fc.BootSource{KernelPath: "/kernel", InitrdPath: "/initrd", BootArgs: &args},
		fc.Vsock{GuestCID: guestCID, UDSPath: "/run/vmm/v.sock"},
		fc.Entropy{},
	}
	for i, d := range disks {
		requests = append(requests, fc.Drive{
			ID: d.name, IsRoot: false, CacheType: fc.CacheWriteback,
			ReadOnly: d.readOnly, Path: fmt.Sprintf("/disk%d", i),
		})
	}
	if tap != "" {
		requests = append(requests, fc.NetworkInterface{ID: "eth0", HostDevName: tap, GuestMAC: r.Lease.MAC})
	}
	requests = append(requests, fc.Action{Type: fc.InstanceStart})
	for _, req := range requests {
		if err := m.api.Do(ctx, req); err != nil {
			return fmt.Errorf("configure VMM: %w", err)
		}
	}
	return nil
}

// guestCID is every guest's vsock address: each VMM has a device of its own.
const guestCID = 3

// adoptMachine asks the helper for a running VM's descriptors.
func adoptMachine(ctx context.Context, helper *ops.Client, handle string) (*machine, int, error) {
	reply, files, err := ops.VMReconnect.Call(ctx, helper, ops.HandleArgs{Handle: handle})
	if err != nil {
		return nil, 0, err
	}
	m, err := newMachine(files)
	return m, reply.PID, err
}
