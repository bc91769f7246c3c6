package guest

import (
	"errors"
	"net"
	"testing"

	"github.com/mdlayher/vsock"
)

// callers is a listener whose connections come from the given addresses.
type callers []net.Addr

func (c *callers) Accept() (net.Conn, error) {
	if len(*c) == 0 {
		return nil, net.ErrClosed
	}
	conn := caller{from: (*c)[0]}
	*c = (*c)[1:]
	return conn, nil
}

func (c *callers) Close() error   { return nil }
func (c *callers) Addr() net.Addr { return nil }

type caller struct {
	net.Conn
	from net.Addr
}

func (c caller) RemoteAddr() net.Addr { return c.from }
func (c caller) Close() error         { return nil }

func TestHostOnly(t *testing.T) {
	list := &callers{
		&vsock.Addr{ContextID: 3, Port: 1}, // the guest itself
		&vsock.Addr{ContextID: vsock.Local, Port: 1},
		&net.UnixAddr{},
		&vsock.Addr{ContextID: vsock.Host, Port: 7},
	}
	conn, err := hostOnly{list}.Accept()
	if err != nil || conn.RemoteAddr().(*vsock.Addr).Port != 7 {
		t.Fatalf("got %v, %v", conn, err)
	}
	if _, err := (hostOnly{list}).Accept(); !errors.Is(err, net.ErrClosed) {
		t.Fatalf("at the end: %v", err)
	}
}
