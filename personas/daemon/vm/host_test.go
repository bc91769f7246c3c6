package vm

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"banger/ops"
	"banger/personas/guest/link"
)

// TestMain is a VMM's process too, where it was started as one: it lives until
// it is killed.
func TestMain(m *testing.M) {
	if os.Args[0] == "fake-vmm" {
		io.Copy(io.Discard, os.Stdin) // its starter has died
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// host is a helper that keeps its leases in memory. Its VMMs are processes
// whose API is served by the test, and its guests speak the real protocol.
type host struct {
	t     testing.TB
	dir   string
	tasks sync.WaitGroup // of the guests

	// mu guards the fields that follow.
	mu      sync.Mutex
	leases  map[string]*guest // by handle
	kernels map[string]bool
	before  func(step string) error // is called for each operation and step
	manner  string                  // of the guests: see guest.behave
	grace   bool                    // guests do not shut down
	boots   []link.BootConfig       // what guests were told, in order
	disks   []string                // the first bytes of each disk of the VM that was started last
	asked   ops.VMStartArgs         // how it was to be started
}

// newHost starts a helper and returns it with its socket's path.
func newHost(t testing.TB) (*host, string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "vm") // t.TempDir is too long for sockets
	must(t, err)
	h := &host{t: t, dir: dir, leases: make(map[string]*guest), kernels: make(map[string]bool)}
	path := filepath.Join(dir, "helper.sock")
	l, err := net.ListenUnix("unixpacket", &net.UnixAddr{Name: path, Net: "unixpacket"})
	must(t, err)
	s := &ops.Server{
		Log:       slog.New(slog.DiscardHandler),
		Authorise: func(*unix.Ucred) error { return nil },
		Vet:       func(int) error { return nil },
	}
	h.bind(s)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("helper: %v", err)
		}
		h.mu.Lock()
		for _, g := range h.leases {
			h.killLocked(g)
		}
		h.mu.Unlock()
		h.tasks.Wait()
		os.RemoveAll(dir)
	})
	return h, path
}

func (h *host) bind(s *ops.Server) {
	ops.Bind(s, ops.Hello, func(context.Context, *ops.Call, ops.None) (ops.HelloReply, []*os.File, error) {
		return ops.HelloReply{}, nil, nil
	})
	none := func(context.Context, *ops.Call, ops.None) (ops.None, []*os.File, error) {
		return ops.None{}, nil, errors.New("not here")
	}
	ops.Bind(s, ops.Inventory, none)
	ops.Bind(s, ops.Resolver, none)
	ops.Bind(s, ops.Reconcile, h.reconcile)
	ops.Bind(s, ops.VMReserve, h.reserve)
	ops.Bind(s, ops.VMStart, h.start)
	ops.Bind(s, ops.VMSeal, h.seal)
	ops.Bind(s, ops.VMReconnect, h.reconnect)
	ops.Bind(s, ops.VMStop, h.stop)
	ops.Bind(s, ops.VMRelease, h.release)
	ops.Bind(s, ops.KernelPut, h.putKernel)
}

// step is a point at which a test may interfere.
func (h *host) step(name string) error {
	h.mu.Lock()
	before := h.before
	h.mu.Unlock()
	if before == nil {
		return nil
	}
	return before(name)
}

func (h *host) reconcile(context.Context, *ops.Call, ops.None) (ops.None, []*os.File, error) {
	if err := h.step("Reconcile"); err != nil {
		return ops.None{}, nil, err
	}
	list := []ops.Reservation{}
	h.set(func() {
		for _, g := range h.leases {
			r := g.lease
			r.Running = g.alive()
			list = append(list, r)
		}
	})
	data, _ := json.Marshal(list)
	fd, err := unix.MemfdCreate("list", unix.MFD_CLOEXEC)
	if err != nil {
		return ops.None{}, nil, err
	}
	f := os.NewFile(uintptr(fd), "list")
	if _, err := f.WriteAt(data, 0); err != nil {
		return ops.None{}, nil, err
	}
	return ops.None{}, []*os.File{f}, h.step("list is made")
}

func (h *host) reserve(context.Context, *ops.Call, ops.None) (ops.VMReserveReply, []*os.File, error) {
	if err := h.step("VMReserve"); err != nil {
		return ops.VMReserveReply{}, nil, err
	}
	var r ops.VMReserveReply
	h.set(func() {
		slot := len(h.leases)
		r = ops.VMReserveReply{
			Handle: randomHex(16), ID: randomHex(4), Slot: slot, Prefix: 16, Gateway: "10.83.0.1",
			Address: fmt.Sprintf("10.83.1.%d", slot+2), MAC: fmt.Sprintf("06:00:0a:53:01:%02x", slot+2),
		}
		h.leases[r.Handle] = &guest{lease: ops.Reservation{Handle: r.Handle, ID: r.ID, Slot: slot}}
	})
	return r, nil, h.step("lease is made")
}

// findRunning is find for a VM that must run.
func (h *host) findRunning(handle string) (*guest, error) {
	g, err := h.find(handle)
	if err == nil && !g.alive() {
		return nil, &ops.Error{Code: ops.Conflict, Message: "the VM does not run"}
	}
	return g, err
}

func (h *host) find(handle string) (*guest, error) {
	if g := h.leases[handle]; g != nil {
		return g, nil
	}
	return nil, &ops.Error{Code: ops.NotFound, Message: "no VM has this handle"}
}

func (h *host) putKernel(_ context.Context, call *ops.Call, a ops.KernelPutArgs) (ops.KernelPutReply, []*os.File, error) {
	if err := h.step("KernelPut"); err != nil {
		return ops.KernelPutReply{}, nil, err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(call.Files) > 0 {
		h.kernels[a.Digest] = true
	}
	return ops.KernelPutReply{Have: h.kernels[a.Digest]}, nil, nil
}

func (h *host) start(_ context.Context, call *ops.Call, a ops.VMStartArgs) (ops.VMStartReply, []*os.File, error) {
	if err := h.step("VMStart"); err != nil {
		return ops.VMStartReply{}, nil, err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	g, err := h.find(a.Handle)
	if err != nil {
		return ops.VMStartReply{}, nil, err
	}
	if !h.kernels[a.Kernel] || !h.kernels[a.Initrd] {
		return ops.VMStartReply{}, nil, &ops.Error{Code: ops.NotFound, Message: "no kernel has this digest"}
	}
	if g.alive() {
		return ops.VMStartReply{}, nil, &ops.Error{Code: ops.Conflict, Message: "the VM runs already"}
	}
	h.disks, h.asked = nil, a
	for _, f := range call.Files {
		head := make([]byte, 16)
		n, _ := f.ReadAt(head, 0)
		h.disks = append(h.disks, string(head[:n]))
	}
	h.killLocked(g)
	if err := h.launch(g); err != nil {
		return ops.VMStartReply{}, nil, err
	}
	return h.handOut(g)
}

func (h *host) seal(_ context.Context, _ *ops.Call, a ops.HandleArgs) (ops.None, []*os.File, error) {
	if err := h.step("VMSeal"); err != nil {
		return ops.None{}, nil, err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	g, err := h.findRunning(a.Handle)
	if err != nil {
		return ops.None{}, nil, err
	}
	g.sealed = true
	return ops.None{}, nil, nil
}

func (h *host) reconnect(_ context.Context, _ *ops.Call, a ops.HandleArgs) (ops.VMStartReply, []*os.File, error) {
	if err := h.step("VMReconnect"); err != nil {
		return ops.VMStartReply{}, nil, err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	g, err := h.findRunning(a.Handle)
	if err != nil {
		return ops.VMStartReply{}, nil, err
	}
	return h.handOut(g)
}

func (h *host) stop(_ context.Context, _ *ops.Call, a ops.HandleArgs) (ops.None, []*os.File, error) {
	if err := h.step("VMStop"); err != nil {
		return ops.None{}, nil, err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	g, err := h.find(a.Handle)
	if err != nil {
		return ops.None{}, nil, err
	}
	h.killLocked(g)
	return ops.None{}, nil, nil
}

func (h *host) release(_ context.Context, _ *ops.Call, a ops.HandleArgs) (ops.None, []*os.File, error) {
	if err := h.step("VMRelease"); err != nil {
		return ops.None{}, nil, err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if g, err := h.find(a.Handle); err == nil {
		h.killLocked(g)
		delete(h.leases, a.Handle)
	}
	return ops.None{}, nil, nil
}

// crash ends the VMM of the only VM, as a guest does that powers off.
func (h *host) crash() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, g := range h.leases {
		if g.cmd != nil {
			g.cmd.Process.Kill()
		}
	}
}

// reboot ends all VMs, and forgets them.
func (h *host) reboot() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, g := range h.leases {
		h.killLocked(g)
	}
	clear(h.leases)
}

func (h *host) set(change func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	change()
}

// count is the number of leases.
func (h *host) count() (n int) {
	h.set(func() { n = len(h.leases) })
	return n
}

// idle reports whether no VMM runs.
func (h *host) idle() (is bool) {
	h.set(func() {
		is = true
		for _, g := range h.leases {
			is = is && !g.alive()
		}
	})
	return is
}

// refuseAt makes one step fail, once.
func (h *host) refuseAt(step string) {
	h.set(func() {
		h.before = func(name string) error {
			if name != step {
				return nil
			}
			h.set(func() { h.before = nil })
			return errors.New("refused at " + step)
		}
	})
}
