package netns

import (
	"context"
	"fmt"
	"net/netip"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"
)

// Policy is what a VM may reach. No policy ever lets it reach another VM, or a
// service of the host.
type Policy int

// The policies. The zero value is the strictest.
const (
	None     Policy = iota // nothing at all, not even names
	Internet               // names, and public addresses
	Full                   // names, public and private addresses
)

// String returns the word that users know the policy by.
func (p Policy) String() string {
	switch p {
	case None:
		return "none"
	case Internet:
		return "internet"
	case Full:
		return "full"
	}
	return fmt.Sprintf("policy(%d)", int(p))
}

// maxFlows is how many connections through the uplink a VM may have open, so
// that one cannot fill the host's table of them.
const maxFlows = 4096

// never are networks that no VM reaches whatever its policy: this host, the
// links next to it, with the metadata services of clouds, and everybody.
var never = prefixes("0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/3")

// private are the other networks that are not the internet.
var private = prefixes("10.0.0.0/8", "100.64.0.0/10", "172.16.0.0/12", "192.0.0.0/24", "192.168.0.0/16", "198.18.0.0/15")

func prefixes(texts ...string) []netip.Prefix {
	var ps []netip.Prefix
	for _, t := range texts {
		ps = append(ps, netip.MustParsePrefix(t))
	}
	return ps
}

// policyTable is the table of the rules by which packets are forwarded. Its
// chains are written anew by each Ensure; its sets, with what each guest may do,
// stay.
func (n *Namespace) policyTable() *nftables.Table {
	return &nftables.Table{Name: n.name, Family: nftables.TableFamilyINet}
}

// policySet holds the addresses of the guests with that policy.
func policySet(t *nftables.Table, p Policy) *nftables.Set {
	return &nftables.Set{Table: t, Name: p.String(), KeyType: nftables.TypeIPAddr}
}

// online are the policies that allow anything.
var online = []Policy{Internet, Full}

// ensurePolicy writes the rules, in one transaction: there is no moment at which
// more is allowed than they say.
func (n *Namespace) ensurePolicy(hostAddrs []netip.Addr) error {
	c, err := n.nft()
	if err != nil {
		return err
	}
	t := c.AddTable(n.policyTable())
	sets := make(map[Policy]*nftables.Set)
	for _, p := range online {
		sets[p] = policySet(t, p)
		if err := c.AddSet(sets[p], nil); err != nil {
			return fmt.Errorf("write policy: %w", err)
		}
	}
	flows := &nftables.Set{Table: t, Name: "flows", KeyType: nftables.TypeIPAddr, Dynamic: true, Size: Slots}
	if err := c.AddSet(flows, nil); err != nil {
		return fmt.Errorf("write policy: %w", err)
	}
	gateway := n.gatewayChain(c, t)
	n.inputChain(c, t, sets, gateway)
	outputChain(c, t)
	if err := n.forwardChain(c, t, sets, flows, hostAddrs); err != nil {
		return fmt.Errorf("write policy: %w", err)
	}
	n.masqueradeChain(c, t)
	// The table of the filters, so that a tap finds it.
	c.AddTable(n.filterTable())
	if err := c.Flush(); err != nil {
		return fmt.Errorf("write policy: %w", edge(err))
	}
	return nil
}

// inputChain guards what listens inside the namespace: only the resolver does.
func (n *Namespace) inputChain(c *nftables.Conn, t *nftables.Table, sets map[Policy]*nftables.Set, gateway *nftables.Chain) {
	chain := baseChain(c, t, "input", nftables.ChainHookInput, nftables.ChainPolicyDrop)
	rule(c, chain, from("lo"), accept())
	rule(c, chain, answers(), accept())
	for _, p := range online {
		rule(c, chain, from(bridgeName), ipv4(), sourceIn(sets[p]), jump(gateway))
	}
	rule(c, chain, from(uplinkName), ipv4(), source(n.plan.UplinkHost()), jump(gateway))
}

// outputChain lets the namespace itself answer, and open nothing: VMMs run in it, and a
// guest that has taken its own over shall reach nobody.
func outputChain(c *nftables.Conn, t *nftables.Table) {
	chain := baseChain(c, t, "output", nftables.ChainHookOutput, nftables.ChainPolicyDrop)
	rule(c, chain, to("lo"), accept())
	rule(c, chain, answers(), accept())
	// Errors about the first packet of a connection, which is not one yet.
	const unreachable, timeExceeded = 3, 11
	for _, kind := range []byte{unreachable, timeExceeded} {
		rule(c, chain, to(bridgeName), ipv4(), proto(unix.IPPROTO_ICMP), network(20, kind), accept())
	}
}

// gatewayChain says what the gateway answers: names and pings.
func (n *Namespace) gatewayChain(c *nftables.Conn, t *nftables.Table) *nftables.Chain {
	chain := plainChain(c, t, "gateway")
	self := destination(n.plan.Gateway())
	for _, transport := range []byte{unix.IPPROTO_UDP, unix.IPPROTO_TCP} {
		rule(c, chain, ipv4(), self, proto(transport), port(destPort, dnsPort), accept())
	}
	const echoRequest = 8
	ping := network(20, echoRequest) // filters let no IP options through, so ICMP begins there
	rule(c, chain, ipv4(), self, proto(unix.IPPROTO_ICMP), ping, accept())
	return chain
}

// forwardChain says what passes between the bridge and the uplink. Nothing
// passes from the bridge to the bridge.
//
// Each packet of a guest is held against its policy, not only the first of a
// connection: a stricter policy cuts off what is open.
func (n *Namespace) forwardChain(c *nftables.Conn, t *nftables.Table, sets map[Policy]*nftables.Set, flows *nftables.Set, hostAddrs []netip.Addr) error {
	internet, full := plainChain(c, t, "to-internet"), plainChain(c, t, "to-full")
	if err := reachChain(c, internet, hostAddrs, append(private[:len(private):len(private)], never...)); err != nil {
		return err
	}
	// The VMs' own network is private too, but never to be reached.
	if err := reachChain(c, full, hostAddrs, append(never[:len(never):len(never)], n.plan.Prefix())); err != nil {
		return err
	}

	chain := baseChain(c, t, "forward", nftables.ChainHookForward, nftables.ChainPolicyDrop)
	in := append(from(uplinkName), append(to(bridgeName), ipv4()...)...)
	out := append(from(bridgeName), append(to(uplinkName), ipv4()...)...)

	rule(c, chain, in, source(n.plan.UplinkHost()), accept())
	rule(c, chain, out, destination(n.plan.UplinkHost()), answers(), accept())
	for _, p := range online {
		rule(c, chain, in, destinationIn(sets[p]), answers(), accept())
	}
	rule(c, chain, out, fresh(), moreThan(maxFlows, flows), drop())
	rule(c, chain, out, sourceIn(sets[Internet]), jump(internet))
	rule(c, chain, out, sourceIn(sets[Full]), jump(full))
	return nil
}

// reachChain accepts every destination but these networks and addresses.
func reachChain(c *nftables.Conn, chain *nftables.Chain, hosts []netip.Addr, networks []netip.Prefix) error {
	barred := &nftables.Set{Table: chain.Table, Anonymous: true, Constant: true, Interval: true, KeyType: nftables.TypeIPAddr}
	if err := c.AddSet(barred, intervals(networks...)); err != nil {
		return err
	}
	rule(c, chain, ipv4(), destinationIn(barred), drop())
	if len(hosts) > 0 {
		own := &nftables.Set{Table: chain.Table, Anonymous: true, Constant: true, KeyType: nftables.TypeIPAddr}
		if err := c.AddSet(own, elements(hosts...)); err != nil {
			return err
		}
		rule(c, chain, ipv4(), destinationIn(own), drop())
	}
	rule(c, chain, accept())
	return nil
}

// masqueradeChain gives what guests send the uplink's address, so that the host,
// or whatever else is the uplink, needs to know that one only.
func (n *Namespace) masqueradeChain(c *nftables.Conn, t *nftables.Table) {
	chain := natChain(c, t)
	rule(c, chain, to(uplinkName), ipv4(), sourceNet(n.plan.Link()), masquerade())
}

// setPolicy changes what the VM in a slot may reach. It holds from the next
// packet on, for open connections too.
func (n *Namespace) setPolicy(ctx context.Context, slot int, p Policy) error {
	if err := checkSlot(slot); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	err := n.transact(func(c *nftables.Conn) error { return n.writePolicy(c, slot, p) })
	if err != nil {
		return fmt.Errorf("set policy of slot %d: %w", slot, err)
	}
	return nil
}

// writePolicy adds to a transaction what gives the slot's address that policy
// and no other. Deleting what is not there would fail, so it is added before.
func (n *Namespace) writePolicy(c *nftables.Conn, slot int, want Policy) error {
	t, self := n.policyTable(), elements(n.plan.Guest(slot))
	for _, p := range online {
		set := policySet(t, p)
		if err := c.SetAddElements(set, self); err != nil {
			return err
		}
		if p == want {
			continue
		}
		if err := c.SetDeleteElements(set, self); err != nil {
			return err
		}
	}
	return nil
}
