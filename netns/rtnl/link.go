package rtnl

import (
	"fmt"
	"net"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// Link is what the kernel says about a network device.
type Link struct {
	Index  uint32
	Name   string
	Alias  string
	Kind   string // "bridge", "veth", "tun"; empty for what has no driver of its own
	MAC    net.HardwareAddr
	MTU    int
	Master uint32 // index of the bridge that it is a port of; zero when none
	Group  uint32
	Up     bool

	// Tun is set when Kind is "tun".
	Tun *Tun
}

// Tun is what the kernel says about a TUN or TAP device.
type Tun struct {
	Owner    uint32 // uid that may attach; NoOwner when anyone may
	Tap      bool
	VnetHdr  bool
	Persist  bool
	PacketID bool
	Queues   bool // made for more than one queue
}

// NoOwner is the owner of a TUN device to which no owner was given.
const NoOwner = ^uint32(0)

// Link returns the device of that name, or an error that is ENODEV.
func (c *Conn) Link(name string) (Link, error) {
	ae := encoder()
	ae.String(unix.IFLA_IFNAME, name)
	ae.Uint32(unix.IFLA_EXT_MASK, rtextFilterSkipStats)
	msgs, err := c.request(unix.RTM_GETLINK, 0, linkHeader(0, 0, 0), ae)
	if err != nil {
		return Link{}, err
	}
	if len(msgs) != 1 {
		return Link{}, fmt.Errorf("get link: %d answers, want 1", len(msgs))
	}
	return parseLink(msgs[0].Data)
}

// Links returns every device of the namespace. It is for inventories: its cost
// grows with their number.
func (c *Conn) Links() ([]Link, error) {
	msgs, err := c.dump(unix.RTM_GETLINK, linkHeader(0, 0, 0))
	if err != nil {
		return nil, err
	}
	links := make([]Link, 0, len(msgs))
	for _, m := range msgs {
		l, err := parseLink(m.Data)
		if err != nil {
			return nil, err
		}
		links = append(links, l)
	}
	return links, nil
}

// CreateLink makes a device. It is an error, EEXIST, if one of that name stands.
// The kernel ignores an alias here: set it in a second step.
func (c *Conn) CreateLink(attrs ...Attr) error {
	return c.newLink(0, netlink.Create|netlink.Excl, attrs)
}

// SetLink changes the device with that index.
func (c *Conn) SetLink(index uint32, attrs ...Attr) error {
	return c.newLink(index, 0, attrs)
}

// DeleteLink removes the device with that index. It takes as long as the kernel
// needs to be sure that nobody uses the device, some 16 ms.
func (c *Conn) DeleteLink(index uint32) error {
	_, err := c.request(unix.RTM_DELLINK, netlink.Acknowledge, linkHeader(index, 0, 0), nil)
	return err
}

// DeleteGroup removes every device of a group, in the time that one takes. A
// group without a device is ENODEV.
func (c *Conn) DeleteGroup(group uint32) error {
	ae := encoder()
	ae.Uint32(unix.IFLA_GROUP, group)
	_, err := c.request(unix.RTM_DELLINK, netlink.Acknowledge, linkHeader(0, 0, 0), ae)
	return err
}

func (c *Conn) newLink(index uint32, flags netlink.HeaderFlags, attrs []Attr) error {
	m := linkMessage{attrs: encoder()}
	for _, a := range attrs {
		a(&m)
	}
	_, err := c.request(unix.RTM_NEWLINK, netlink.Acknowledge|flags, linkHeader(index, m.flags, m.change), m.attrs)
	return err
}

// rtextFilterSkipStats is RTEXT_FILTER_SKIP_STATS: no counters in the answer.
const rtextFilterSkipStats = 1 << 3

// linkHeader is struct ifinfomsg.
func linkHeader(index, flags, change uint32) []byte {
	b := make([]byte, unix.SizeofIfInfomsg)
	native.PutUint32(b[4:], index)
	native.PutUint32(b[8:], flags)
	native.PutUint32(b[12:], change)
	return b
}

func parseLink(data []byte) (Link, error) {
	var l Link
	err := decode(data, unix.SizeofIfInfomsg, func(ad *netlink.AttributeDecoder) {
		switch ad.Type() {
		case unix.IFLA_IFNAME:
			l.Name = ad.String()
		case unix.IFLA_IFALIAS:
			l.Alias = ad.String()
		case unix.IFLA_ADDRESS:
			l.MAC = ad.Bytes()
		case unix.IFLA_MTU:
			l.MTU = int(ad.Uint32())
		case unix.IFLA_MASTER:
			l.Master = ad.Uint32()
		case unix.IFLA_GROUP:
			l.Group = ad.Uint32()
		case unix.IFLA_LINKINFO:
			ad.Nested(l.parseInfo)
		}
	})
	if err != nil {
		return Link{}, err
	}
	l.Index = native.Uint32(data[4:])
	l.Up = native.Uint32(data[8:])&unix.IFF_UP != 0
	return l, nil
}

func (l *Link) parseInfo(ad *netlink.AttributeDecoder) error {
	for ad.Next() {
		switch ad.Type() {
		case unix.IFLA_INFO_KIND:
			l.Kind = ad.String()
		case unix.IFLA_INFO_DATA:
			if l.Kind == "tun" {
				l.Tun = &Tun{Owner: NoOwner}
				ad.Nested(l.Tun.parse)
			}
		}
	}
	return nil
}

func (t *Tun) parse(ad *netlink.AttributeDecoder) error {
	for ad.Next() {
		switch ad.Type() {
		case unix.IFLA_TUN_OWNER:
			t.Owner = ad.Uint32()
		case unix.IFLA_TUN_TYPE:
			t.Tap = ad.Uint8() == unix.IFF_TAP
		case unix.IFLA_TUN_VNET_HDR:
			t.VnetHdr = ad.Uint8() != 0
		case unix.IFLA_TUN_PERSIST:
			t.Persist = ad.Uint8() != 0
		case unix.IFLA_TUN_PI:
			t.PacketID = ad.Uint8() != 0
		case unix.IFLA_TUN_MULTI_QUEUE:
			t.Queues = ad.Uint8() != 0
		}
	}
	return nil
}

func encoder() *netlink.AttributeEncoder { return netlink.NewAttributeEncoder() }
