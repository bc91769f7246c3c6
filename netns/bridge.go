package netns

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"

	"banger/netns/rtnl"

	"golang.org/x/sys/unix"
)

// bridgeName is the bridge that all taps are ports of.
const bridgeName = "br0"

// routed are the settings of the two links that forward: answers must come from
// where they are routed to, nobody may change a route, and 127/8 is nobody
// else's.
var routed = rtnl.IPv4(map[rtnl.Conf]uint32{
	rtnl.Forwarding:      1,
	rtnl.RPFilter:        1,
	rtnl.AcceptRedirects: 0,
	rtnl.SendRedirects:   0,
	rtnl.RouteLocalnet:   0,
})

// settlePlan keeps the plan that the bridge bears, and chooses one where there
// is no bridge.
func (n *Namespace) settlePlan(cfg Config, host *rtnl.Conn) error {
	switch err := n.adopt(); {
	case err == nil:
		return nil
	case !errors.Is(err, fs.ErrNotExist):
		return err
	}
	mtu, err := hostMTU(host)
	if err != nil {
		return err
	}
	n.mtu = mtu
	if cfg.Prefix.IsValid() {
		n.plan, err = NewPlan(cfg.Prefix)
		return err
	}
	taken, err := n.takenNetworks(host)
	if err != nil {
		return err
	}
	n.plan, err = ChoosePlan(taken)
	return err
}

// adopt reads index, plan and MTU from the bridge.
func (n *Namespace) adopt() error {
	bridge, err := n.rt.Link(bridgeName)
	if err != nil {
		return fmt.Errorf("find bridge: %w", edge(err))
	}
	if bridge.Kind != "bridge" || bridge.Alias != n.alias("bridge") {
		return fmt.Errorf("find bridge: %s: %w", bridgeName, fs.ErrNotExist)
	}
	addrs, err := n.rt.Addrs()
	if err != nil {
		return fmt.Errorf("read bridge's address: %w", edge(err))
	}
	for _, a := range addrs {
		if a.Index != bridge.Index {
			continue
		}
		whole, err := a.Prefix.Addr().Prefix(16)
		if err != nil {
			return err
		}
		if n.plan, err = NewPlan(whole); err != nil {
			return err
		}
		n.bridge, n.mtu = bridge.Index, bridge.MTU
		return nil
	}
	return fmt.Errorf("read bridge's address: %w", fs.ErrNotExist)
}

// ensureBridge makes the bridge. Its alias is its last attribute but the
// address, so that a bridge that adopt accepts is complete.
func (n *Namespace) ensureBridge() error {
	if err := n.ensureLoopback(); err != nil {
		return err
	}
	bridge, err := n.rt.Link(bridgeName)
	if errors.Is(err, unix.ENODEV) {
		// A fixed hardware address keeps it from changing with its ports.
		err = n.rt.CreateLink(rtnl.Name(bridgeName), rtnl.MAC(macOf(n.plan.Gateway())), rtnl.Bridge())
		if err == nil {
			bridge, err = n.rt.Link(bridgeName)
		}
	}
	if err != nil {
		return fmt.Errorf("create bridge: %w", edge(err))
	}
	n.bridge = bridge.Index
	set := []func() error{
		func() error { return quietIPv6(n.rt, bridge.Index) },
		func() error { return n.rt.SetLink(bridge.Index, rtnl.MTU(n.mtu), routed) },
		func() error { return n.rt.SetLink(bridge.Index, rtnl.Alias(n.alias("bridge")), rtnl.Up) },
		func() error {
			return n.rt.SetAddr(bridge.Index, netip.PrefixFrom(n.plan.Gateway(), n.plan.Link().Bits()))
		},
	}
	for _, step := range set {
		if err := step(); err != nil {
			return fmt.Errorf("set up bridge: %w", edge(err))
		}
	}
	return nil
}

func (n *Namespace) ensureLoopback() error {
	lo, err := n.rt.Link("lo")
	if err == nil {
		err = n.rt.SetLink(lo.Index, rtnl.Up)
	}
	if err != nil {
		return fmt.Errorf("set up loopback: %w", edge(err))
	}
	return nil
}

// alias is what a link of banger's says of itself. Removal looks at it.
func (n *Namespace) alias(what string) string { return n.name + ":" + what }

// quietIPv6 keeps the link from having an IPv6 address. That there is no IPv6
// at all does as well.
func quietIPv6(c *rtnl.Conn, index uint32) error {
	err := c.SetLink(index, rtnl.NoIPv6Address)
	if errors.Is(err, unix.EAFNOSUPPORT) {
		return nil
	}
	return err
}

// removeLink deletes the link of that name, if there is one.
func removeLink(c *rtnl.Conn, name string) error {
	l, err := c.Link(name)
	if err == nil {
		err = c.DeleteLink(l.Index)
	}
	if err := gone(err); err != nil {
		return fmt.Errorf("remove link %q: %w", name, err)
	}
	return nil
}
