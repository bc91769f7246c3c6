package rtnl

import (
	"net"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// Attr is one property of a device to make or to change.
type Attr func(*linkMessage)

type linkMessage struct {
	flags, change uint32
	attrs         *netlink.AttributeEncoder
}

// Up brings the device up.
func Up(m *linkMessage) { m.flags |= unix.IFF_UP; m.change |= unix.IFF_UP }

// Down brings the device down.
func Down(m *linkMessage) { m.flags &^= unix.IFF_UP; m.change |= unix.IFF_UP }

// Name gives the device its name, of at most 15 bytes.
func Name(name string) Attr {
	return func(m *linkMessage) { m.attrs.String(unix.IFLA_IFNAME, name) }
}

// Alias gives the device its alias, of at most 255 bytes.
func Alias(alias string) Attr {
	return func(m *linkMessage) { m.attrs.Bytes(unix.IFLA_IFALIAS, []byte(alias)) }
}

// MAC gives the device its hardware address.
func MAC(mac net.HardwareAddr) Attr {
	return func(m *linkMessage) { m.attrs.Bytes(unix.IFLA_ADDRESS, mac) }
}

// MTU gives the device its largest packet, in bytes.
func MTU(bytes int) Attr {
	return func(m *linkMessage) { m.attrs.Uint32(unix.IFLA_MTU, uint32(bytes)) }
}

// Group puts the device into a group. Zero is the group of all that was never
// put into one.
func Group(group uint32) Attr {
	return func(m *linkMessage) { m.attrs.Uint32(unix.IFLA_GROUP, group) }
}

// Master makes the device a port of the bridge with that index.
func Master(index uint32) Attr {
	return func(m *linkMessage) { m.attrs.Uint32(unix.IFLA_MASTER, index) }
}

// MoveTo moves the device into the network namespace of that descriptor. The
// device goes down, and keeps its name and alias.
func MoveTo(nsFD int) Attr {
	return func(m *linkMessage) { m.attrs.Uint32(unix.IFLA_NET_NS_FD, uint32(nsFD)) }
}

// Veth makes the device one end of a pair, the other end being called peer.
func Veth(peer string) Attr {
	return info("veth", func(data *netlink.AttributeEncoder) error {
		data.Do(vethInfoPeer, func() ([]byte, error) {
			attrs := encoder()
			attrs.String(unix.IFLA_IFNAME, peer)
			encoded, err := attrs.Encode()
			return append(linkHeader(0, 0, 0), encoded...), err
		})
		return nil
	})
}

// Bridge makes the device a bridge without spanning tree and without multicast
// snooping, so that it sends nothing of its own accord.
func Bridge() Attr {
	return info("bridge", func(data *netlink.AttributeEncoder) error {
		data.Uint32(unix.IFLA_BR_STP_STATE, 0)
		data.Uint32(unix.IFLA_BR_FORWARD_DELAY, 0)
		data.Uint8(unix.IFLA_BR_MCAST_SNOOPING, 0)
		return nil
	})
}

// IsolatedPort makes a port of a bridge unable to reach other such ports. It
// learns no address and is flooded with nothing: it needs entries made by
// [Conn.SetFDB] and [Conn.SetNeighbour]. The device must be a port already.
func IsolatedPort(m *linkMessage) {
	m.attrs.Nested(unix.IFLA_LINKINFO, func(li *netlink.AttributeEncoder) error {
		li.String(unix.IFLA_INFO_SLAVE_KIND, "bridge")
		li.Nested(unix.IFLA_INFO_SLAVE_DATA, func(data *netlink.AttributeEncoder) error {
			data.Uint8(unix.IFLA_BRPORT_LEARNING, 0)
			data.Uint8(unix.IFLA_BRPORT_UNICAST_FLOOD, 0)
			data.Uint8(unix.IFLA_BRPORT_MCAST_FLOOD, 0)
			data.Uint8(unix.IFLA_BRPORT_BCAST_FLOOD, 0)
			data.Uint8(unix.IFLA_BRPORT_ISOLATED, 1)
			return nil
		})
		return nil
	})
}

// Conf is a per-device setting of IPv4, as in /proc/sys/net/ipv4/conf. The
// values are the kernel's IPV4_DEVCONF_ numbers.
type Conf uint16

// The settings that banger gives to its devices.
const (
	Forwarding      Conf = 1
	AcceptRedirects Conf = 4
	SendRedirects   Conf = 6
	RPFilter        Conf = 8
	RouteLocalnet   Conf = 26
)

// IPv4 gives the device settings, without /proc and so without the need for a
// writable one.
func IPv4(conf map[Conf]uint32) Attr {
	return func(m *linkMessage) {
		m.attrs.Nested(unix.IFLA_AF_SPEC, func(af *netlink.AttributeEncoder) error {
			af.Nested(unix.AF_INET, func(inet *netlink.AttributeEncoder) error {
				inet.Nested(unix.IFLA_INET_CONF, func(settings *netlink.AttributeEncoder) error {
					for k, v := range conf {
						settings.Uint32(uint16(k), v)
					}
					return nil
				})
				return nil
			})
			return nil
		})
	}
}

// NoIPv6Address keeps the kernel from giving the device a link-local address,
// with which it would speak of its own accord. Where IPv6 is not built in, the
// kernel refuses it with EAFNOSUPPORT.
func NoIPv6Address(m *linkMessage) {
	m.attrs.Nested(unix.IFLA_AF_SPEC, func(af *netlink.AttributeEncoder) error {
		af.Nested(unix.AF_INET6, func(inet6 *netlink.AttributeEncoder) error {
			inet6.Uint8(unix.IFLA_INET6_ADDR_GEN_MODE, addrGenModeNone)
			return nil
		})
		return nil
	})
}

const (
	vethInfoPeer    = 1 // VETH_INFO_PEER
	addrGenModeNone = 1 // IN6_ADDR_GEN_MODE_NONE
)

func info(kind string, data func(*netlink.AttributeEncoder) error) Attr {
	return func(m *linkMessage) {
		m.attrs.Nested(unix.IFLA_LINKINFO, func(li *netlink.AttributeEncoder) error {
			li.String(unix.IFLA_INFO_KIND, kind)
			li.Nested(unix.IFLA_INFO_DATA, data)
			return nil
		})
	}
}
