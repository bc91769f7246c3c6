// Package nic configures the guest's network interface over rtnetlink: an image
// needs no iproute2 and no network manager.
package nic

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/jsimonetti/rtnetlink/v2"
	"golang.org/x/sys/unix"

	"banger/personas/guest/link"
)

// Up brings loopback up, and configures the interface that n describes. It
// returns the interface's name, which is empty when n is nil. What is configured
// already is no error.
func Up(n *link.Network) (name string, err error) {
	conn, err := rtnetlink.Dial(nil)
	if err != nil {
		return "", fmt.Errorf("dial rtnetlink: %w", err)
	}
	defer conn.Close()
	links, err := conn.Link.List()
	if err != nil {
		return "", fmt.Errorf("list interfaces: %w", err)
	}
	for i := range links {
		if links[i].Flags&unix.IFF_LOOPBACK != 0 {
			if err := up(conn, &links[i], 0); err != nil {
				return "", err
			}
		}
	}
	if n == nil {
		return "", nil
	}
	l, err := find(links, n.MAC)
	if err != nil {
		return "", err
	}
	return l.Attributes.Name, configure(conn, l, n)
}

// find returns the interface with the address, or the first that is none of
// loopback's.
func find(links []rtnetlink.LinkMessage, mac string) (*rtnetlink.LinkMessage, error) {
	var want net.HardwareAddr
	if mac != "" {
		var err error
		if want, err = net.ParseMAC(mac); err != nil {
			return nil, err
		}
	}
	for i := range links {
		l := &links[i]
		if l.Attributes == nil || l.Flags&unix.IFF_LOOPBACK != 0 || l.Type != unix.ARPHRD_ETHER {
			continue
		}
		if want == nil || bytes.Equal(l.Attributes.Address, want) {
			return l, nil
		}
	}
	if mac == "" {
		return nil, errors.New("find network interface: there is none")
	}
	return nil, fmt.Errorf("find network interface: none has the address %s", mac)
}

func configure(conn *rtnetlink.Conn, l *rtnetlink.LinkMessage, n *link.Network) error {
	if err := up(conn, l, uint32(n.MTU)); err != nil {
		return err
	}
	for _, a := range n.Addresses {
		if err := addAddress(conn, l.Index, a); err != nil {
			return fmt.Errorf("add address %s to %q: %w", a, l.Attributes.Name, err)
		}
	}
	if n.Gateway.IsValid() {
		if err := addDefaultRoute(conn, l.Index, n.Gateway); err != nil {
			return fmt.Errorf("add route via %s: %w", n.Gateway, err)
		}
	}
	return nil
}

// up sets the interface up, and its MTU unless that is zero.
func up(conn *rtnetlink.Conn, l *rtnetlink.LinkMessage, mtu uint32) error {
	msg := &rtnetlink.LinkMessage{
		Family: l.Family, Type: l.Type, Index: l.Index, Flags: unix.IFF_UP, Change: unix.IFF_UP,
	}
	if mtu != 0 {
		msg.Attributes = &rtnetlink.LinkAttributes{MTU: mtu}
	}
	if err := conn.Link.Set(msg); err != nil {
		return fmt.Errorf("set interface %d up: %w", l.Index, err)
	}
	return nil
}

func addAddress(conn *rtnetlink.Conn, index uint32, a netip.Prefix) error {
	ip := net.IP(a.Addr().AsSlice())
	attributes := &rtnetlink.AddressAttributes{Address: ip, Local: ip}
	if a.Addr().Is4() {
		attributes.Broadcast = broadcast(a)
	} else {
		// There is no one to collide with, and waiting for the answer of no
		// one takes a second.
		attributes.Flags = unix.IFA_F_NODAD
	}
	err := conn.Address.New(&rtnetlink.AddressMessage{
		Family: family(a.Addr()), PrefixLength: uint8(a.Bits()), Index: index, Attributes: attributes,
	})
	if errors.Is(err, unix.EEXIST) {
		return nil
	}
	return err
}

// broadcast is the last address of the network, nil where there is none.
func broadcast(a netip.Prefix) net.IP {
	if a.Bits() > 30 {
		return nil
	}
	ip := a.Addr().As4()
	mask := net.CIDRMask(a.Bits(), 32)
	for i := range ip {
		ip[i] |= ^mask[i]
	}
	return ip[:]
}

func addDefaultRoute(conn *rtnetlink.Conn, index uint32, gateway netip.Addr) error {
	return conn.Route.Replace(&rtnetlink.RouteMessage{
		Family: family(gateway), Table: unix.RT_TABLE_MAIN, Protocol: unix.RTPROT_STATIC,
		Scope: unix.RT_SCOPE_UNIVERSE, Type: unix.RTN_UNICAST,
		Attributes: rtnetlink.RouteAttributes{Gateway: gateway.AsSlice(), OutIface: index},
	})
}

func family(a netip.Addr) uint8 {
	if a.Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}
