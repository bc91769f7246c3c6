package netns

import (
	"context"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

const dnsPort = 53

// ListenDNS makes the sockets of the guests' resolver, on the gateway's address:
// a datagram socket, and a stream socket that listens. Whoever is given them
// answers in the namespace without being in it. The caller closes them.
func (n *Namespace) ListenDNS(ctx context.Context) (udp, tcp *os.File, err error) {
	if err := ctx.Err(); err != nil {
		return nil, nil, err
	}
	err = n.inner.do(func() error {
		if udp, err = n.bindDNS(unix.SOCK_DGRAM); err != nil {
			return err
		}
		if tcp, err = n.bindDNS(unix.SOCK_STREAM); err != nil {
			udp.Close()
			return err
		}
		return nil
	})
	if err != nil {
		return nil, nil, fmt.Errorf("listen for names on %s: %w", n.plan.Gateway(), edge(err))
	}
	return udp, tcp, nil
}

func (n *Namespace) bindDNS(typ int) (*os.File, error) {
	fd, err := unix.Socket(unix.AF_INET, typ|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), "dns")
	if err := n.prepareDNS(fd, typ); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

func (n *Namespace) prepareDNS(fd, typ int) error {
	addr := &unix.SockaddrInet4{Port: dnsPort, Addr: n.plan.Gateway().As4()}
	if typ == unix.SOCK_DGRAM {
		return unix.Bind(fd, addr)
	}
	// Connections of an earlier owner may still be closing.
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err != nil {
		return err
	}
	if err := unix.Bind(fd, addr); err != nil {
		return err
	}
	return unix.Listen(fd, unix.SOMAXCONN)
}
