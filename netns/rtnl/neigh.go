package rtnl

import (
	"net"
	"net/netip"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// Neighbour is a permanent entry of the IPv4 neighbour table, made by hand.
type Neighbour struct {
	Index uint32
	IP    netip.Addr
	MAC   net.HardwareAddr
}

// SetNeighbour says for good which hardware address an IPv4 address has on the
// device: the kernel asks nobody and believes nobody who says otherwise.
func (c *Conn) SetNeighbour(n Neighbour) error {
	ae := encoder()
	ae.Bytes(unix.NDA_DST, n.IP.AsSlice())
	ae.Bytes(unix.NDA_LLADDR, n.MAC)
	_, err := c.request(unix.RTM_NEWNEIGH, netlink.Acknowledge|netlink.Create|netlink.Replace,
		neighHeader(unix.AF_INET, n.Index, unix.NUD_PERMANENT, 0), ae)
	return err
}

// DeleteNeighbour removes the entry of an address, or returns ENOENT.
func (c *Conn) DeleteNeighbour(index uint32, ip netip.Addr) error {
	ae := encoder()
	ae.Bytes(unix.NDA_DST, ip.AsSlice())
	_, err := c.request(unix.RTM_DELNEIGH, netlink.Acknowledge, neighHeader(unix.AF_INET, index, 0, 0), ae)
	return err
}

// Neighbours returns the permanent entries of the namespace.
func (c *Conn) Neighbours() ([]Neighbour, error) {
	msgs, err := c.dump(unix.RTM_GETNEIGH, neighHeader(unix.AF_INET, 0, 0, 0))
	if err != nil {
		return nil, err
	}
	var all []Neighbour
	for _, m := range msgs {
		var n Neighbour
		err := decode(m.Data, unix.SizeofNdMsg, func(ad *netlink.AttributeDecoder) {
			switch ad.Type() {
			case unix.NDA_DST:
				n.IP, _ = netip.AddrFromSlice(ad.Bytes())
			case unix.NDA_LLADDR:
				n.MAC = ad.Bytes()
			}
		})
		if err != nil {
			return nil, err
		}
		n.Index = native.Uint32(m.Data[4:])
		if native.Uint16(m.Data[8:])&unix.NUD_PERMANENT != 0 {
			all = append(all, n)
		}
	}
	return all, nil
}

// SetFDB says for good behind which port of its bridge a hardware address is.
// The entry goes with the port.
func (c *Conn) SetFDB(port uint32, mac net.HardwareAddr) error {
	ae := encoder()
	ae.Bytes(unix.NDA_LLADDR, mac)
	_, err := c.request(unix.RTM_NEWNEIGH, netlink.Acknowledge|netlink.Create|netlink.Replace,
		neighHeader(unix.AF_BRIDGE, port, unix.NUD_NOARP, unix.NTF_MASTER), ae)
	return err
}

// neighHeader is struct ndmsg.
func neighHeader(family byte, index uint32, state uint16, flags byte) []byte {
	b := make([]byte, unix.SizeofNdMsg)
	b[0] = family
	native.PutUint32(b[4:], index)
	native.PutUint16(b[8:], state)
	b[10] = flags
	return b
}
