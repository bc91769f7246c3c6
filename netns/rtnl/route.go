package rtnl

import (
	"fmt"
	"net/netip"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// Addr is an IPv4 address of a device.
type Addr struct {
	Index  uint32
	Prefix netip.Prefix // the address itself, not masked
}

// Addrs returns every IPv4 address of the namespace.
func (c *Conn) Addrs() ([]Addr, error) {
	header := make([]byte, unix.SizeofIfAddrmsg)
	header[0] = unix.AF_INET
	msgs, err := c.dump(unix.RTM_GETADDR, header)
	if err != nil {
		return nil, err
	}
	var addrs []Addr
	for _, m := range msgs {
		var ip netip.Addr
		err := decode(m.Data, unix.SizeofIfAddrmsg, func(ad *netlink.AttributeDecoder) {
			// IFA_LOCAL is the device's own address; IFA_ADDRESS is the
			// peer's on a point-to-point link.
			if ad.Type() == unix.IFA_LOCAL {
				ip, _ = netip.AddrFromSlice(ad.Bytes())
			}
		})
		if err != nil {
			return nil, err
		}
		if ip.Is4() {
			addrs = append(addrs, Addr{native.Uint32(m.Data[4:]), netip.PrefixFrom(ip, int(m.Data[1]))})
		}
	}
	return addrs, nil
}

// SetAddr gives the device an IPv4 address. It is no error if it has it.
func (c *Conn) SetAddr(index uint32, prefix netip.Prefix) error {
	header := make([]byte, unix.SizeofIfAddrmsg)
	header[0] = unix.AF_INET
	header[1] = byte(prefix.Bits())
	native.PutUint32(header[4:], index)
	ae := encoder()
	ae.Bytes(unix.IFA_LOCAL, prefix.Addr().AsSlice())
	ae.Bytes(unix.IFA_ADDRESS, prefix.Addr().AsSlice())
	_, err := c.request(unix.RTM_NEWADDR, netlink.Acknowledge|netlink.Create|netlink.Replace, header, ae)
	return err
}

// Route is an IPv4 route.
type Route struct {
	Dst   netip.Prefix // 0.0.0.0/0 is the default route
	Via   netip.Addr   // zero when the destination is on the link
	Index uint32       // of the device; zero for routes that have none or several
	Table uint32
}

// Routes returns every IPv4 route of the namespace, of all tables.
func (c *Conn) Routes() ([]Route, error) {
	header := make([]byte, unix.SizeofRtMsg)
	header[0] = unix.AF_INET
	msgs, err := c.dump(unix.RTM_GETROUTE, header)
	if err != nil {
		return nil, err
	}
	routes := make([]Route, 0, len(msgs))
	for _, m := range msgs {
		r, err := parseRoute(m.Data)
		if err != nil {
			return nil, err
		}
		routes = append(routes, r)
	}
	return routes, nil
}

func parseRoute(data []byte) (Route, error) {
	r := Route{}
	dst := netip.IPv4Unspecified()
	err := decode(data, unix.SizeofRtMsg, func(ad *netlink.AttributeDecoder) {
		switch ad.Type() {
		case unix.RTA_DST:
			if ip, ok := netip.AddrFromSlice(ad.Bytes()); ok {
				dst = ip
			}
		case unix.RTA_GATEWAY:
			r.Via, _ = netip.AddrFromSlice(ad.Bytes())
		case unix.RTA_OIF:
			r.Index = ad.Uint32()
		case unix.RTA_TABLE:
			r.Table = ad.Uint32()
		}
	})
	if err != nil {
		return Route{}, err
	}
	r.Dst = netip.PrefixFrom(dst, int(data[1]))
	if !r.Dst.IsValid() {
		return Route{}, fmt.Errorf("read route: bad destination %s/%d", dst, data[1])
	}
	return r, nil
}

// SetRoute adds a route to the main table, in the place of any other to the
// same destination.
func (c *Conn) SetRoute(r Route) error {
	header := make([]byte, unix.SizeofRtMsg)
	header[0] = unix.AF_INET
	header[1] = byte(r.Dst.Bits())
	header[4] = unix.RT_TABLE_MAIN
	header[5] = unix.RTPROT_STATIC
	header[6] = unix.RT_SCOPE_UNIVERSE
	header[7] = unix.RTN_UNICAST
	ae := encoder()
	ae.Uint32(unix.RTA_OIF, r.Index)
	if r.Dst.Bits() > 0 {
		ae.Bytes(unix.RTA_DST, r.Dst.Addr().AsSlice())
	}
	if r.Via.IsValid() {
		ae.Bytes(unix.RTA_GATEWAY, r.Via.AsSlice())
	} else {
		header[6] = unix.RT_SCOPE_LINK
	}
	_, err := c.request(unix.RTM_NEWROUTE, netlink.Acknowledge|netlink.Create|netlink.Replace, header, ae)
	return err
}
