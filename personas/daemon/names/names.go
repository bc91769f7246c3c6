// Package names is the resolver of the guests: it knows the VMs by name and
// asks the host's own resolvers for everything else.
//
//	web.vm            A      the VM's address; other types: no data
//	2.0.83.10.in-addr.arpa   PTR    web.vm
//	anything in .vm, or in the reverse zone of the guests, that is no VM: NXDOMAIN
//	all else          forwarded as it is, EDNS included
//
// Guests are not trusted. Only sources within the prefix are answered, what is
// malformed is dropped, and a guest that asks too much is not heard: see the
// bounds in limit.go. A name in .vm and a guest's address never leave the host.
//
// Answers of upstream are passed on as they are, addresses of private networks
// too: what a guest can reach is decided by the packet filter, not by names.
package names

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"
)

// domain is the zone of the VMs, as a label.
const domain = "vm"

const (
	// maxUDP bounds a datagram in bytes, in either direction.
	maxUDP = 4 << 10
	// maxTCP bounds a message over TCP in bytes, in either direction.
	maxTCP = 64<<10 - 1
	// queryTimeout bounds one query, all its upstreams together.
	queryTimeout = 2 * time.Second
	// ttl of the answers in domain, in seconds: a VM's name may soon be
	// another's.
	ttl = 5
)

// Server answers guests. Its fields are set before Serve and not changed after.
type Server struct {
	// Lookup returns the address of the VM with this name, in lower case.
	Lookup func(name string) (netip.Addr, bool)
	// Reverse returns the name of the VM with this address.
	Reverse func(netip.Addr) (string, bool)
	// Prefix holds the guests. Nobody else is answered, but for Host.
	Prefix netip.Prefix
	// Host is the host itself, whose own resolver asks for names of VMs. It gets
	// those and no others: what is not ours it knows better. Zero is nobody.
	Host netip.Addr
	// Gateway is what the name _banger stands for.
	Gateway netip.Addr
	// Upstream returns the resolvers to be asked, best first. It is called for
	// every query that is forwarded.
	Upstream func() []netip.AddrPort

	limits limits
}

// Serve answers queries until ctx is done; it returns nil then. It closes pc and
// ln, and waits for the queries that are under way.
func (s *Server) Serve(ctx context.Context, pc net.PacketConn, ln net.Listener) error {
	caller := ctx
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	closeBoth := sync.OnceFunc(func() { pc.Close(); ln.Close() })
	defer closeBoth()
	defer context.AfterFunc(ctx, closeBoth)()
	var tasks sync.WaitGroup
	tasks.Go(func() { cancel(fmt.Errorf("serve names over udp: %w", s.serveUDP(ctx, pc))) })
	tasks.Go(func() { cancel(fmt.Errorf("serve names over tcp: %w", s.serveTCP(ctx, ln))) })
	tasks.Wait()
	if caller.Err() != nil {
		return nil
	}
	return context.Cause(ctx) // of the one that failed first
}

// serveUDP answers datagrams until reading fails.
func (s *Server) serveUDP(ctx context.Context, pc net.PacketConn) error {
	var queries sync.WaitGroup
	defer queries.Wait()
	buf := make([]byte, maxUDP+1)
	for {
		n, from, err := pc.ReadFrom(buf)
		if err != nil {
			return err
		}
		client, ok := s.client(from)
		if !ok || n > maxUDP {
			continue
		}
		q, err := parse(buf[:n])
		if err != nil {
			continue
		}
		release, ok := s.limits.begin(client, time.Now())
		if !ok {
			continue
		}
		if reply, ok := s.local(q, client); ok {
			release()
			_, _ = pc.WriteTo(reply, from) // a guest that is gone
			continue
		}
		raw := append([]byte(nil), buf[:n]...)
		queries.Go(func() {
			defer release()
			reply := s.forward(ctx, "udp", q, raw)
			_, _ = pc.WriteTo(fit(reply, q), from)
		})
	}
}

// client returns the address of a client, and whether it is to be answered.
func (s *Server) client(from net.Addr) (netip.Addr, bool) {
	ap, err := netip.ParseAddrPort(from.String())
	if err != nil {
		return netip.Addr{}, false
	}
	addr := ap.Addr().Unmap()
	return addr, s.Prefix.Contains(addr) || addr == s.Host
}
