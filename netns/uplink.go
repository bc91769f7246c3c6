package netns

import (
	"errors"
	"fmt"
	"net/netip"

	"banger/netns/rtnl"

	"golang.org/x/sys/unix"
)

// uplinkName is the namespace's end of the way out.
const uplinkName = "uplink0"

// hostLink is the host's end: the only link of banger's that the host has.
func (n *Namespace) hostLink() string { return n.name + "0" }

// ensureUplink makes the pair of links inside the namespace, and moves the
// host's end out when it bears its alias already: a link that is seen in the
// host's network can always be recognised.
func (n *Namespace) ensureUplink(host *rtnl.Conn) error {
	if err := n.ensurePair(host); err != nil {
		return err
	}
	outer, err := host.Link(n.hostLink())
	if err != nil {
		return fmt.Errorf("find uplink: %w", edge(err))
	}
	n.uplink = outer.Index
	inner, err := n.rt.Link(uplinkName)
	if err != nil {
		return fmt.Errorf("find uplink: %w", edge(err))
	}
	set := []func() error{
		func() error { return quietIPv6(host, outer.Index) },
		func() error { return quietIPv6(n.rt, inner.Index) },
		func() error { return host.SetLink(outer.Index, rtnl.MTU(n.mtu), rtnl.Up) },
		func() error { return n.rt.SetLink(inner.Index, rtnl.MTU(n.mtu), routed, rtnl.Up) },
		func() error { return host.SetAddr(outer.Index, netip.PrefixFrom(n.plan.UplinkHost(), 30)) },
		func() error { return n.rt.SetAddr(inner.Index, netip.PrefixFrom(n.plan.UplinkInside(), 30)) },
		func() error {
			return host.SetRoute(rtnl.Route{Dst: n.plan.Link(), Via: n.plan.UplinkInside(), Index: outer.Index})
		},
		func() error {
			everywhere := netip.PrefixFrom(netip.IPv4Unspecified(), 0)
			return n.rt.SetRoute(rtnl.Route{Dst: everywhere, Via: n.plan.UplinkHost(), Index: inner.Index})
		},
	}
	for _, step := range set {
		if err := step(); err != nil {
			return fmt.Errorf("set up uplink: %w", edge(err))
		}
	}
	return nil
}

// ensurePair sees to it that one end is inside and its peer is outside.
func (n *Namespace) ensurePair(host *rtnl.Conn) error {
	_, innerErr := n.rt.Link(uplinkName)
	outer, outerErr := host.Link(n.hostLink())
	switch {
	case outerErr == nil && !n.ownsUplink(outer):
		return fmt.Errorf("create link %q: one stands there: %w", n.hostLink(), ErrForeign)
	case outerErr == nil && innerErr == nil:
		return nil
	case outerErr == nil:
		// The end of an earlier namespace that did not go with its name.
		if err := host.DeleteLink(outer.Index); err != nil {
			return fmt.Errorf("remove stale uplink: %w", edge(err))
		}
	case !errors.Is(outerErr, unix.ENODEV):
		return fmt.Errorf("find uplink: %w", edge(outerErr))
	}
	if errors.Is(innerErr, unix.ENODEV) {
		innerErr = n.rt.CreateLink(rtnl.Name(uplinkName), rtnl.Veth(n.hostLink()))
	}
	if innerErr != nil {
		return fmt.Errorf("create uplink: %w", edge(innerErr))
	}
	return n.moveOut()
}

// moveOut gives the host's end its alias and moves it to the host.
func (n *Namespace) moveOut() error {
	end, err := n.rt.Link(n.hostLink())
	if err != nil {
		return fmt.Errorf("find uplink: %w", edge(err))
	}
	if err := n.rt.SetLink(end.Index, rtnl.Alias(n.alias("uplink"))); err != nil {
		return fmt.Errorf("name uplink: %w", edge(err))
	}
	if err := n.rt.SetLink(end.Index, rtnl.MoveTo(n.host.fd())); err != nil {
		return fmt.Errorf("move uplink to the host: %w", edge(err))
	}
	return nil
}

// removeUplink deletes the pair.
func (n *Namespace) removeUplink(host *rtnl.Conn) error {
	outer, err := host.Link(n.hostLink())
	if err == nil && n.ownsUplink(outer) {
		err = host.DeleteLink(outer.Index)
	}
	if err := gone(err); err != nil {
		return fmt.Errorf("remove uplink: %w", err)
	}
	return nil
}

func (n *Namespace) ownsUplink(l rtnl.Link) bool {
	return l.Kind == "veth" && l.Alias == n.alias("uplink")
}

// takenNetworks is what the plan must not overlap.
func (n *Namespace) takenNetworks(host *rtnl.Conn) ([]netip.Prefix, error) {
	routes, err := host.Routes()
	if err != nil {
		return nil, fmt.Errorf("read the host's routes: %w", edge(err))
	}
	addrs, err := host.Addrs()
	if err != nil {
		return nil, fmt.Errorf("read the host's addresses: %w", edge(err))
	}
	// What a half-made uplink of ours bears is no obstacle to itself.
	var own uint32
	if l, err := host.Link(n.hostLink()); err == nil && n.ownsUplink(l) {
		own = l.Index
	}
	var taken []netip.Prefix
	for _, r := range routes {
		if r.Index != own || own == 0 {
			taken = append(taken, r.Dst)
		}
	}
	for _, a := range addrs {
		if a.Index != own {
			taken = append(taken, a.Prefix)
		}
	}
	return taken, nil
}

// hostAddrs lists the host's own addresses, which guests are not to reach.
func (n *Namespace) hostAddrs(host *rtnl.Conn) ([]netip.Addr, error) {
	addrs, err := host.Addrs()
	if err != nil {
		return nil, fmt.Errorf("read the host's addresses: %w", edge(err))
	}
	var ips []netip.Addr
	for _, a := range addrs {
		if ip := a.Prefix.Addr(); !ip.IsLoopback() && !n.plan.Prefix().Contains(ip) {
			ips = append(ips, ip)
		}
	}
	return ips, nil
}

// Packets are no larger than Ethernet's, and no smaller than every IPv4 host
// must take.
const (
	maxMTU = 1500
	minMTU = 576
)

// hostMTU is that of the link with the default route: what is larger would be
// lost where messages of path MTU discovery are.
func hostMTU(host *rtnl.Conn) (int, error) {
	routes, err := host.Routes()
	if err != nil {
		return 0, fmt.Errorf("read the host's routes: %w", edge(err))
	}
	links, err := host.Links()
	if err != nil {
		return 0, fmt.Errorf("read the host's links: %w", edge(err))
	}
	mtu := maxMTU
	for _, r := range routes {
		for _, l := range links {
			if r.Dst.Bits() == 0 && r.Index == l.Index && r.Index != 0 {
				mtu = min(mtu, max(l.MTU, minMTU))
			}
		}
	}
	return mtu, nil
}
