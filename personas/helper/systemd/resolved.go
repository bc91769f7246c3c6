package systemd

import (
	"context"
	"fmt"
	"net/netip"
	"time"

	"github.com/godbus/dbus/v5"
)

// bus is where systemd-resolved is asked: it has no socket of its own.
const bus = "unix:path=/run/dbus/system_bus_socket"

// resolverTime bounds SetLinkResolver, which nothing depends on: a bus that accepts
// and does not answer must not keep the network from coming up.
const resolverTime = 5 * time.Second

// SetLinkResolver makes systemd-resolved ask server, over the link with this
// index, for the names below the domains and for no others. It lasts as long as
// the link. It gives up after a few seconds.
func SetLinkResolver(ctx context.Context, link uint32, server netip.Addr, domains ...string) error {
	return setLinkResolver(ctx, bus, resolverTime, link, server, domains...)
}

func setLinkResolver(ctx context.Context, at string, limit time.Duration, link uint32, server netip.Addr, domains ...string) (err error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	defer func() {
		if err != nil && ctx.Err() != nil { // else it is told as a connection that is closed
			err = fmt.Errorf("wait for D-Bus: %w", context.Cause(ctx))
		}
	}()
	conn, err := dbus.Connect(at, dbus.WithContext(ctx))
	if err != nil {
		return fmt.Errorf("connect to D-Bus: %w", err)
	}
	defer conn.Close()
	type address struct {
		Family int32
		Bytes  []byte
	}
	type routed struct {
		Domain      string
		RoutingOnly bool
	}
	family := int32(10)
	if server.Is4() {
		family = 2
	}
	var routes []routed
	for _, d := range domains {
		routes = append(routes, routed{d, true})
	}
	index := int32(link)
	resolve := conn.Object("org.freedesktop.resolve1", "/org/freedesktop/resolve1")
	for _, c := range []struct {
		method string
		value  any
	}{
		{"SetLinkDNS", []address{{family, server.AsSlice()}}},
		{"SetLinkDomains", routes},
		{"SetLinkDefaultRoute", false},
		{"SetLinkDNSSEC", "no"},
		{"SetLinkLLMNR", "no"},
		{"SetLinkMulticastDNS", "no"},
	} {
		call := resolve.CallWithContext(ctx, "org.freedesktop.resolve1.Manager."+c.method, 0, index, c.value)
		if call.Err != nil {
			return fmt.Errorf("%s: %w", c.method, call.Err)
		}
	}
	return nil
}
