package netns

import (
	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// filterTable holds one chain for each tap, by its name.
func (n *Namespace) filterTable() *nftables.Table {
	return &nftables.Table{Name: n.name, Family: nftables.TableFamilyNetdev}
}

// filterPriority is before everything else that looks at what a tap receives.
const filterPriority = -500

// writeFilter adds to a transaction the filter of the tap in a slot, in place of
// an earlier one. The hook is on the device itself, before the bridge sees the
// frame. What passes is a guest's own ARP and its own IPv4, and nothing else:
// no other sender, no VLAN tag, no spanning tree, no LLDP, no IPv6 with its
// router advertisements, no DHCP server.
func (n *Namespace) writeFilter(c *nftables.Conn, slot int) {
	mac, ip := n.plan.MAC(slot), n.plan.Guest(slot).AsSlice()
	policy := nftables.ChainPolicyDrop
	n.eraseFilter(c, slot)
	chain := c.AddChain(&nftables.Chain{
		Table: n.filterTable(), Name: tapName(slot), Type: nftables.ChainTypeFilter,
		Hooknum: nftables.ChainHookIngress, Priority: nftables.ChainPriorityRef(filterPriority),
		Policy: &policy, Device: tapName(slot),
	})

	// The kernel takes a VLAN tag off before this hook; reading the type from
	// the frame, rather than from the packet's metadata, sees it nevertheless.
	isARP := link(etherType, expr.CmpOpEq, 0x08, 0x06)
	isIPv4 := link(etherType, expr.CmpOpEq, 0x08, 0x00)
	isUDP := proto(unix.IPPROTO_UDP)

	rule(c, chain, link(etherSource, expr.CmpOpNeq, mac...), drop())
	rule(c, chain, isARP,
		network(arpFormat, 0, 1, 0x08, 0x00, 6, 4),
		network(arpSenderMAC, mac...), network(arpSenderIP, ip...), accept())
	rule(c, chain, isIPv4, isUDP, port(sourcePort, 67), drop())
	// Version 4 with a header of 20 bytes: no options, so no source routing.
	rule(c, chain, isIPv4, network(ipVersion, 0x45), network(ipSource, ip...), accept())
}

// eraseFilter adds to a transaction the removal of a tap's filter. Adding the
// chain first makes it no error if it is not there: kernels before 6.16 remove
// it with the device, later ones keep it.
func (n *Namespace) eraseFilter(c *nftables.Conn, slot int) {
	chain := &nftables.Chain{Table: n.filterTable(), Name: tapName(slot)}
	c.AddChain(chain)
	c.DelChain(chain)
}
