package daemon

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"time"

	"banger/ops"
	"banger/personas/daemon/names"
)

// resolve answers the name queries of guests and of the host until ctx is done. The sockets are
// the helper's; while it is away the old ones go on working.
func (d *Daemon) resolve(ctx context.Context) {
	for ctx.Err() == nil {
		err := d.resolveOnce(ctx)
		if ctx.Err() != nil {
			return
		}
		d.log.Warn("answer name queries, trying again", "error", err)
		select {
		case <-ctx.Done():
		case <-time.After(helloEvery):
		}
	}
}

func (d *Daemon) resolveOnce(ctx context.Context) error {
	hello, _, err := ops.Hello.Call(ctx, d.helper, ops.None{})
	if err != nil {
		return err
	}
	prefix, err := netip.ParsePrefix(hello.Prefix)
	if err != nil {
		return fmt.Errorf("guests' network: %w", err)
	}
	host, err := netip.ParseAddr(hello.Host)
	if err != nil {
		return fmt.Errorf("host's address: %w", err)
	}
	gateway, err := netip.ParseAddr(hello.Gateway)
	if err != nil {
		return fmt.Errorf("gateway's address: %w", err)
	}
	_, files, err := ops.Resolver.Call(ctx, d.helper, ops.None{})
	if err != nil {
		return err
	}
	pc, uerr := net.FilePacketConn(files[0])
	ln, terr := net.FileListener(files[1])
	files[0].Close()
	files[1].Close()
	if uerr != nil || terr != nil {
		if uerr == nil {
			pc.Close()
		}
		if terr == nil {
			ln.Close()
		}
		return fmt.Errorf("take resolver sockets: %v, %v", uerr, terr)
	}
	server := &names.Server{
		Lookup: d.vms.Lookup, Reverse: d.vms.Reverse, Prefix: prefix.Masked(), Host: host, Gateway: gateway,
		Upstream: names.Upstream(names.HostConfig),
	}
	return server.Serve(ctx, pc, ln)
}
