package vsock

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
)

// Config describes a device.
type Config struct {
	// CID is the guest's address, 3 or more.
	CID uint32
	// Path is the unix socket for connections to the guest. With an underscore and a
	// port appended it names the socket that a connection from the guest goes to.
	Path string
	// Listener listens at Path, if the caller has made it himself. New takes ownership.
	Listener *net.UnixListener
}

// Device is a vsock device. Serve it to one QEMU.
type Device struct {
	cid uint32
	l   *net.UnixListener
	mux *mux
}

// New returns a device that listens at cfg.Path. Close it.
func New(cfg Config) (*Device, error) {
	if cfg.CID <= hostCID || cfg.CID == 1<<32-1 {
		return nil, fmt.Errorf("make vsock device: bad cid %d", cfg.CID)
	}
	l := cfg.Listener
	if l == nil {
		var err error
		l, err = net.ListenUnix("unix", &net.UnixAddr{Name: cfg.Path, Net: "unix"})
		if err != nil {
			return nil, fmt.Errorf("make vsock device: %w", err)
		}
	}
	return &Device{cid: cfg.CID, l: l, mux: newMux(uint64(cfg.CID), cfg.Path)}, nil
}

// Close stops listening, removes the socket if New has made it, and ends all streams.
func (d *Device) Close() error {
	err := d.l.Close()
	d.mux.close()
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

// Serve speaks vhost-user with QEMU on conn until either goes away or ctx is done, which
// both are no error. All streams end with it, and the device with them. It closes conn.
func (d *Device) Serve(ctx context.Context, conn *net.UnixConn) error {
	s := newSession(d.cid, d.mux, conn)
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()

	var accepting sync.WaitGroup
	accepting.Go(func() { d.mux.accept(d.l) })
	err := s.run()
	if ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
		err = nil
	}
	err = errors.Join(err, d.Close())
	accepting.Wait()
	conn.Close()
	if err != nil {
		return fmt.Errorf("serve vsock: %w", err)
	}
	return nil
}
