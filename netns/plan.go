package netns

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
)

// Slots is how many VMs an address plan has room for.
const Slots = 4096

// ErrNoPlan says that every candidate network collides with a route of the host.
var ErrNoPlan = errors.New("no private network of 16 bits that the host has no route to")

// Plan is the address plan of a namespace: one private /16 network that the host
// has no route into. All else follows from it:
//
//	x.y.0.1              gateway, on the bridge; the guests' resolver too
//	x.y.0.2 + slot       the guest in that slot
//	x.y.0.0/17           what the bridge and the guests hold to be their link
//	x.y.255.252/30       the uplink: the host at .253, the namespace at .254
//
// The link is the lower half only, so that a guest reaches the uplink, and thus
// the host that opened a connection to it, by its gateway.
type Plan struct {
	prefix netip.Prefix
}

// benchmark is set aside for measurements between networks (RFC 2544): nobody
// routes it, and a VPN that takes all private networks does not take it.
var benchmark = netip.MustParsePrefix("198.18.0.0/15")

// NewPlan returns the plan of an IPv4 network of 16 bits, which must be private
// or one of the two that are set aside for measurements.
func NewPlan(prefix netip.Prefix) (Plan, error) {
	ip := prefix.Addr()
	if !ip.Is4() || prefix.Bits() != 16 || prefix != prefix.Masked() || !(ip.IsPrivate() || benchmark.Contains(ip)) {
		return Plan{}, fmt.Errorf("address plan %s: not a private IPv4 network of 16 bits", prefix)
	}
	return Plan{prefix}, nil
}

// ChoosePlan returns the first candidate that overlaps none of the host's routes
// and addresses. The default route is no obstacle, as it leads everywhere. It is
// the same on every call with the same routes.
func ChoosePlan(taken []netip.Prefix) (Plan, error) {
	for _, c := range candidates() {
		if free(c, taken) {
			return Plan{c}, nil
		}
	}
	return Plan{}, ErrNoPlan
}

// candidates lists networks of 10/8, 172.16/12 and 198.18/15, in an order that begins
// far from what people and tools like to choose. Networks that docker, k3s,
// kubeadm, podman or flannel use by default come last: a guest may run them.
func candidates() []netip.Prefix {
	liked := map[byte]bool{0: true, 1: true, 10: true, 42: true, 43: true, 88: true, 89: true, 96: true, 100: true, 244: true}
	var first, last []netip.Prefix
	for i := range 256 {
		second := byte(203 + 37*i) // 37 and 256 have no common factor: each comes once
		p := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, second, 0, 0}), 16)
		if liked[second] {
			last = append(last, p)
		} else {
			first = append(first, p)
		}
	}
	for second := 31; second >= 16; second-- {
		last = append(last, netip.PrefixFrom(netip.AddrFrom4([4]byte{172, byte(second), 0, 0}), 16))
	}
	last = append(last, netip.MustParsePrefix("198.18.0.0/16"), netip.MustParsePrefix("198.19.0.0/16"))
	return append(first, last...)
}

// widest is the length of the widest prefix that counts as a route to somewhere.
// What is wider is a default route in pieces, as VPNs make them.
const widest = 8

func free(candidate netip.Prefix, taken []netip.Prefix) bool {
	for _, t := range taken {
		if t.Bits() >= widest && t.Overlaps(candidate) {
			return false
		}
	}
	return true
}

// IsZero tells whether the plan was never chosen.
func (p Plan) IsZero() bool { return !p.prefix.IsValid() }

// Prefix is the whole network of the plan.
func (p Plan) Prefix() netip.Prefix { return p.prefix }

// Link is the part of the network that the guests and the gateway share: a guest
// gives its address this prefix length.
func (p Plan) Link() netip.Prefix { return netip.PrefixFrom(p.prefix.Addr(), 17) }

// Gateway is the guests' way out, and their resolver.
func (p Plan) Gateway() netip.Addr { return p.at(1) }

// Guest is the address of the VM in a slot, which must be from 0 to Slots-1.
func (p Plan) Guest(slot int) netip.Addr { return p.at(uint32(2 + slot)) }

// MAC is the hardware address of the VM in a slot: 06:00, then its IP address.
func (p Plan) MAC(slot int) net.HardwareAddr { return macOf(p.Guest(slot)) }

// UplinkHost is the host's end of the uplink: from there the host reaches guests.
func (p Plan) UplinkHost() netip.Addr { return p.at(0xfffd) }

// UplinkInside is the namespace's end of the uplink: what the host sees as the
// source of everything that guests send.
func (p Plan) UplinkInside() netip.Addr { return p.at(0xfffe) }

func (p Plan) at(offset uint32) netip.Addr {
	b := p.prefix.Addr().As4()
	b[2], b[3] = byte(offset>>8), byte(offset)
	return netip.AddrFrom4(b)
}

// macOf is locally administered and unicast.
func macOf(ip netip.Addr) net.HardwareAddr {
	b := ip.As4()
	return net.HardwareAddr{0x06, 0x00, b[0], b[1], b[2], b[3]}
}
