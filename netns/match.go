package netns

import (
	"net"
	"net/netip"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// match is a part of an nftables rule: a condition, or what is done at its end.
// The functions here are the words of which the rules are made, so that a
// rule reads as nft(8) would print it.
type match []expr.Any

// rule adds a rule of these parts to the end of a chain.
func rule(c *nftables.Conn, chain *nftables.Chain, parts ...match) {
	var exprs []expr.Any
	for _, p := range parts {
		exprs = append(exprs, p...)
	}
	c.AddRule(&nftables.Rule{Table: chain.Table, Chain: chain, Exprs: exprs})
}

// reg is the register that all conditions compare.
const reg = unix.NFT_REG_1

func meta(key expr.MetaKey, want []byte) match {
	return match{
		&expr.Meta{Key: key, Register: reg},
		&expr.Cmp{Op: expr.CmpOpEq, Register: reg, Data: want},
	}
}

// from matches the link that a packet came in by.
func from(link string) match { return meta(expr.MetaKeyIIFNAME, linkName(link)) }

// to matches the link that a packet leaves by.
func to(link string) match { return meta(expr.MetaKeyOIFNAME, linkName(link)) }

func linkName(link string) []byte {
	b := make([]byte, unix.IFNAMSIZ)
	copy(b, link)
	return b
}

// ipv4 matches packets of that protocol, in tables that see others too.
func ipv4() match { return meta(expr.MetaKeyNFPROTO, []byte{unix.NFPROTO_IPV4}) }

// proto matches the transport protocol.
func proto(number byte) match { return meta(expr.MetaKeyL4PROTO, []byte{number}) }

// field compares bytes of a packet.
func field(base expr.PayloadBase, offset uint32, op expr.CmpOp, want ...byte) match {
	return match{
		load(base, offset, uint32(len(want))),
		&expr.Cmp{Op: op, Register: reg, Data: want},
	}
}

func load(base expr.PayloadBase, offset, length uint32) expr.Any {
	return &expr.Payload{DestRegister: reg, Base: base, Offset: offset, Len: length}
}

// Offsets in the headers of Ethernet, ARP and IPv4, in bytes.
const (
	etherSource = 6
	etherType   = 12

	arpFormat     = 0 // hardware type, protocol type, both lengths: 6 bytes
	arpSenderMAC  = 8
	arpSenderIP   = 14
	ipVersion     = 0 // version and header length
	ipSource      = 12
	ipDestination = 16
	sourcePort    = 0
	destPort      = 2
)

func link(offset uint32, op expr.CmpOp, want ...byte) match {
	return field(expr.PayloadBaseLLHeader, offset, op, want...)
}

func network(offset uint32, want ...byte) match {
	return field(expr.PayloadBaseNetworkHeader, offset, expr.CmpOpEq, want...)
}

func port(offset uint32, number uint16) match {
	return field(expr.PayloadBaseTransportHeader, offset, expr.CmpOpEq, binaryutil.BigEndian.PutUint16(number)...)
}

// source matches the packet's source address.
func source(ip netip.Addr) match { return network(ipSource, ip.AsSlice()...) }

// destination matches the packet's destination address.
func destination(ip netip.Addr) match { return network(ipDestination, ip.AsSlice()...) }

// sourceNet matches a source in the network.
func sourceNet(p netip.Prefix) match {
	return match{
		load(expr.PayloadBaseNetworkHeader, ipSource, 4),
		&expr.Bitwise{SourceRegister: reg, DestRegister: reg, Len: 4,
			Mask: net.CIDRMask(p.Bits(), 32), Xor: make([]byte, 4)},
		&expr.Cmp{Op: expr.CmpOpEq, Register: reg, Data: p.Masked().Addr().AsSlice()},
	}
}

// sourceIn matches a source that is an element of the set.
func sourceIn(s *nftables.Set) match { return in(s, ipSource) }

// destinationIn matches a destination that is an element of the set.
func destinationIn(s *nftables.Set) match { return in(s, ipDestination) }

func in(s *nftables.Set, offset uint32) match {
	return match{
		load(expr.PayloadBaseNetworkHeader, offset, 4),
		&expr.Lookup{SourceRegister: reg, SetName: s.Name, SetID: s.ID},
	}
}

// answers matches packets of a connection that was let through before, and
// errors about it.
func answers() match {
	return state(expr.CtStateBitESTABLISHED | expr.CtStateBitRELATED)
}

// fresh matches the first packet of a connection.
func fresh() match { return state(expr.CtStateBitNEW) }

// redirected matches packets of a connection whose destination was changed.
func redirected() match {
	const destinationChanged = 1 << 5 // IPS_DST_NAT
	return tracked(expr.CtKeySTATUS, destinationChanged)
}

func state(bits uint32) match { return tracked(expr.CtKeySTATE, bits) }

// tracked matches where one of the bits is set in what is known of the connection.
func tracked(key expr.CtKey, bits uint32) match {
	return match{
		&expr.Ct{Key: key, Register: reg},
		&expr.Bitwise{SourceRegister: reg, DestRegister: reg, Len: 4,
			Mask: binaryutil.NativeEndian.PutUint32(bits), Xor: make([]byte, 4)},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: reg, Data: make([]byte, 4)},
	}
}

// moreThan matches when the source of the packet has more connections than that.
// The set holds a count for each source.
func moreThan(count uint32, s *nftables.Set) match {
	return match{
		load(expr.PayloadBaseNetworkHeader, ipSource, 4),
		&expr.Dynset{SrcRegKey: reg, SetName: s.Name, SetID: s.ID, Operation: unix.NFT_DYNSET_OP_ADD,
			Exprs: []expr.Any{&expr.Connlimit{Count: count, Flags: expr.NFT_CONNLIMIT_F_INV}}},
	}
}

func accept() match { return match{&expr.Verdict{Kind: expr.VerdictAccept}} }
func drop() match   { return match{&expr.Verdict{Kind: expr.VerdictDrop}} }

// jump goes on in another chain, and comes back if nothing there decides.
func jump(chain *nftables.Chain) match {
	return match{&expr.Verdict{Kind: expr.VerdictJump, Chain: chain.Name}}
}

func masquerade() match { return match{&expr.Masq{}} }

// elements are those of a set of single addresses.
func elements(ips ...netip.Addr) []nftables.SetElement {
	var es []nftables.SetElement
	for _, ip := range ips {
		es = append(es, nftables.SetElement{Key: ip.AsSlice()})
	}
	return es
}

// intervals are the elements of a set of networks, which must not overlap. The
// end of an interval is the first address behind it; what reaches the last
// address of all has no end.
func intervals(networks ...netip.Prefix) []nftables.SetElement {
	var es []nftables.SetElement
	for _, p := range networks {
		first := p.Masked().Addr()
		b := first.As4()
		size := uint64(1) << (32 - p.Bits())
		end := uint64(b[0])<<24 + uint64(b[1])<<16 + uint64(b[2])<<8 + uint64(b[3]) + size
		es = append(es, nftables.SetElement{Key: first.AsSlice()})
		if end < 1<<32 {
			key := []byte{byte(end >> 24), byte(end >> 16), byte(end >> 8), byte(end)}
			es = append(es, nftables.SetElement{Key: key, IntervalEnd: true})
		}
	}
	return es
}
