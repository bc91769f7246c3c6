package host

import (
	"net"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// Listen opens a listener in the namespace of the server beyond the uplink.
// It closes with the test.
func (h *Host) Listen(network, address string) net.Listener {
	h.t.Helper()
	var ln net.Listener
	h.beyond(func() (err error) {
		ln, err = net.Listen(network, address)
		return err
	})
	h.t.Cleanup(func() { ln.Close() })
	return ln
}

// ListenPacket is Listen for datagrams.
func (h *Host) ListenPacket(network, address string) net.PacketConn {
	h.t.Helper()
	var pc net.PacketConn
	h.beyond(func() (err error) {
		pc, err = net.ListenPacket(network, address)
		return err
	})
	h.t.Cleanup(func() { pc.Close() })
	return pc
}

// beyond runs f in the server's namespace. A socket stays in the namespace
// that it was made in.
func (h *Host) beyond(f func() error) {
	h.t.Helper()
	done := make(chan error, 1)
	go func() {
		// The thread is never unlocked, so that it ends with the goroutine
		// and nothing else comes to run in the namespace.
		runtime.LockOSThread()
		ns, err := os.Open(h.Path("/run/netns/server"))
		if err != nil {
			done <- err
			return
		}
		defer ns.Close()
		if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
			done <- os.NewSyscallError("setns", err)
			return
		}
		done <- f()
	}()
	if err := <-done; err != nil {
		h.t.Fatalf("in the server's namespace: %v", err)
	}
}
