package netns

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// marker is in every frame that a test sends, followed by the frame's name.
const marker = "banger-forged:"

// frame puts an Ethernet header before a payload.
func frame(dst, src net.HardwareAddr, etherType uint16, payload ...[]byte) []byte {
	b := append(append([]byte(nil), dst...), src...)
	b = binary.BigEndian.AppendUint16(b, etherType)
	return append(b, bytes.Join(payload, nil)...)
}

func arp(op uint16, mac net.HardwareAddr, ip netip.Addr, target netip.Addr) []byte {
	b := []byte{0, 1, 8, 0, 6, 4}
	b = binary.BigEndian.AppendUint16(b, op)
	b = append(append(b, mac...), ip.AsSlice()...)
	return append(append(b, make([]byte, 6)...), target.AsSlice()...)
}

func ipPacket(src, dst netip.Addr, protocol byte, options []byte, payload []byte) []byte {
	b := make([]byte, 20)
	b[0] = 0x40 | byte(5+len(options)/4)
	binary.BigEndian.PutUint16(b[2:], uint16(20+len(options)+len(payload)))
	b[8], b[9] = 64, protocol
	copy(b[12:], src.AsSlice())
	copy(b[16:], dst.AsSlice())
	b = append(b, options...)
	var sum uint32
	for i := 0; i < len(b); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	sum = sum>>16 + sum&0xffff
	binary.BigEndian.PutUint16(b[10:], ^uint16(sum+sum>>16))
	return append(b, payload...)
}

func udp(src, dst uint16, payload []byte) []byte {
	b := binary.BigEndian.AppendUint16(nil, src)
	b = binary.BigEndian.AppendUint16(b, dst)
	b = binary.BigEndian.AppendUint16(b, uint16(8+len(payload)))
	return append(append(b, 0, 0), payload...)
}

// kind is one way to forge a frame.
type kind struct {
	name  string
	frame func(mark []byte) []byte

	// checkedByBridge marks what the bridge itself drops where the kernel has
	// br_netfilter: such are not IPv4 at all.
	checkedByBridge bool
}

var (
	broadcast = net.HardwareAddr{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
	bridges   = net.HardwareAddr{0x01, 0x80, 0xc2, 0, 0, 0}
	lldp      = net.HardwareAddr{0x01, 0x80, 0xc2, 0, 0, 0x0e}
	allNodes  = net.HardwareAddr{0x33, 0x33, 0, 0, 0, 1}
	foreign   = net.HardwareAddr{0x02, 0xde, 0xad, 0xbe, 0xef, 0x01}
)

// kinds returns the frames that the guest in slot 0 may send, and those that it
// may not.
func kinds(p Plan) (honest, forged []kind) {
	mac, ip, gw := p.MAC(0), p.Guest(0), p.Gateway()
	gwMAC, peer, peerMAC := macOf(gw), p.Guest(1), p.MAC(1)
	own := func(mark []byte) []byte { return ipPacket(ip, gw, unix.IPPROTO_UDP, nil, udp(9, 9, mark)) }
	honest = []kind{
		{name: "ARP for the gateway", frame: func(m []byte) []byte { return frame(broadcast, mac, 0x0806, arp(1, mac, ip, gw), m) }},
		{name: "ARP answer", frame: func(m []byte) []byte { return frame(gwMAC, mac, 0x0806, arp(2, mac, ip, gw), m) }},
		{name: "IPv4", frame: func(m []byte) []byte { return frame(gwMAC, mac, 0x0800, own(m)) }},
	}
	ip6 := func(next byte, payload []byte) []byte {
		b := make([]byte, 40)
		b[0], b[6], b[7], b[8], b[9] = 0x60, next, 255, 0xfe, 0x80
		binary.BigEndian.PutUint16(b[4:], uint16(len(payload)))
		copy(b[24:], []byte{0xff, 2, 15: 1})
		return append(b, payload...)
	}
	dhcp := make([]byte, 240)
	forged = []kind{
		{name: "foreign hardware address", frame: func(m []byte) []byte { return frame(gwMAC, foreign, 0x0800, own(m)) }},
		{name: "peer's hardware address", frame: func(m []byte) []byte { return frame(gwMAC, peerMAC, 0x0800, own(m)) }},
		{name: "ARP as the gateway", frame: func(m []byte) []byte { return frame(broadcast, mac, 0x0806, arp(2, mac, gw, ip), m) }},
		{name: "ARP as a peer", frame: func(m []byte) []byte { return frame(broadcast, mac, 0x0806, arp(2, mac, peer, gw), m) }},
		{name: "ARP with another inner sender", frame: func(m []byte) []byte { return frame(broadcast, mac, 0x0806, arp(2, foreign, ip, gw), m) }},
		{name: "ARP probe from 0.0.0.0", frame: func(m []byte) []byte {
			return frame(broadcast, mac, 0x0806, arp(1, mac, netip.IPv4Unspecified(), gw), m)
		}},
		{name: "ARP of another format", frame: func(m []byte) []byte {
			b := arp(1, mac, ip, gw)
			b[1] = 6
			return frame(broadcast, mac, 0x0806, b, m)
		}},
		{name: "foreign IPv4 address", frame: func(m []byte) []byte {
			return frame(gwMAC, mac, 0x0800, ipPacket(netip.MustParseAddr("203.0.113.7"), gw, unix.IPPROTO_UDP, nil, udp(9, 9, m)))
		}},
		{name: "peer's IPv4 address", frame: func(m []byte) []byte {
			return frame(gwMAC, mac, 0x0800, ipPacket(peer, gw, unix.IPPROTO_UDP, nil, udp(9, 9, m)))
		}},
		{name: "gateway's IPv4 address", frame: func(m []byte) []byte {
			return frame(broadcast, mac, 0x0800, ipPacket(gw, peer, unix.IPPROTO_UDP, nil, udp(9, 9, m)))
		}},
		{name: "source routing", frame: func(m []byte) []byte {
			lsrr := []byte{131, 7, 4, 198, 51, 100, 10, 0}
			return frame(gwMAC, mac, 0x0800, ipPacket(ip, gw, unix.IPPROTO_UDP, lsrr, udp(9, 9, m)))
		}},
		{name: "DHCP server", frame: func(m []byte) []byte {
			return frame(broadcast, mac, 0x0800, ipPacket(ip, netip.MustParseAddr("255.255.255.255"), unix.IPPROTO_UDP, nil, udp(67, 68, append(dhcp, m...))))
		}},
		{name: "DHCP client", frame: func(m []byte) []byte {
			return frame(broadcast, mac, 0x0800, ipPacket(netip.IPv4Unspecified(), netip.MustParseAddr("255.255.255.255"), unix.IPPROTO_UDP, nil, udp(68, 67, append(dhcp, m...))))
		}},
		{name: "VLAN tag", frame: func(m []byte) []byte { return frame(gwMAC, mac, 0x8100, []byte{0, 5, 8, 0}, own(m)) }},
		{name: "priority tag", frame: func(m []byte) []byte { return frame(gwMAC, mac, 0x8100, []byte{0xe0, 0, 8, 0}, own(m)) }},
		{name: "tag before ARP", frame: func(m []byte) []byte {
			return frame(broadcast, mac, 0x8100, []byte{0, 5, 8, 6}, arp(1, mac, ip, gw), m)
		}},
		{name: "two tags", frame: func(m []byte) []byte {
			return frame(gwMAC, mac, 0x88a8, []byte{0, 5, 0x81, 0, 0, 6, 8, 0}, own(m))
		}},
		{name: "spanning tree", frame: func(m []byte) []byte {
			return frame(bridges, mac, uint16(38), []byte{0x42, 0x42, 3}, make([]byte, 35), m)
		}},
		{name: "LLDP", frame: func(m []byte) []byte { return frame(lldp, mac, 0x88cc, []byte{2, 7, 4}, mac, m) }},
		{name: "router advertisement", frame: func(m []byte) []byte {
			return frame(allNodes, mac, 0x86dd, ip6(unix.IPPROTO_ICMPV6, append([]byte{134, 0, 0, 0}, m...)))
		}},
		{name: "DHCPv6 server", frame: func(m []byte) []byte { return frame(allNodes, mac, 0x86dd, ip6(unix.IPPROTO_UDP, udp(547, 546, m))) }},
		{name: "IPv6", frame: func(m []byte) []byte { return frame(allNodes, mac, 0x86dd, ip6(59, m)) }},
		{name: "another protocol", frame: func(m []byte) []byte { return frame(gwMAC, mac, 0x88b5, m) }},
		{name: "an IPv6 packet called IPv4", frame: func(m []byte) []byte { return frame(gwMAC, mac, 0x0800, ip6(59, m)) }, checkedByBridge: true},
		{name: "no IPv4 header at all", frame: func(m []byte) []byte { return frame(gwMAC, mac, 0x0800, m) }, checkedByBridge: true},
	}
	return honest, forged
}

// sniffer sees all frames that get past the filter: those that the bridge takes
// up, being promiscuous, those that it sends to another tap, and those for
// bridges, which the kernel hands up on the tap itself.
type sniffer struct{ fds []int }

func sniff(t *testing.T, n *Namespace, peer string) sniffer {
	t.Helper()
	var s sniffer
	open := func(name string, protocol uint16) {
		l, err := n.rt.Link(name)
		must(t, err)
		must(t, n.inner.do(func() error {
			fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
			if err != nil {
				return err
			}
			s.fds = append(s.fds, fd)
			mreq := &unix.PacketMreq{Ifindex: int32(l.Index), Type: unix.PACKET_MR_PROMISC}
			if err := unix.SetsockoptPacketMreq(fd, unix.SOL_PACKET, unix.PACKET_ADD_MEMBERSHIP, mreq); err != nil {
				return err
			}
			return unix.Bind(fd, &unix.SockaddrLinklayer{Ifindex: int(l.Index), Protocol: protocol<<8 | protocol>>8})
		}))
	}
	open(bridgeName, unix.ETH_P_ALL)
	open(peer, unix.ETH_P_ALL)
	open(tapName(0), 0x88cc)
	open(tapName(0), unix.ETH_P_802_2)
	t.Cleanup(func() {
		for _, fd := range s.fds {
			unix.Close(fd)
		}
	})
	return s
}

// seen reads what was sniffed until the last mark has come, or for a while, and
// counts the frames by name.
func (s sniffer) seen(t *testing.T, last string, wait time.Duration) map[string]int {
	t.Helper()
	counts := make(map[string]int)
	buf := make([]byte, 1<<16)
	for deadline := time.Now().Add(wait); counts[last] == 0 && time.Now().Before(deadline); {
		for _, fd := range s.fds {
			for {
				k, _, err := unix.Recvfrom(fd, buf, 0)
				if errors.Is(err, unix.EAGAIN) {
					break
				}
				must(t, err)
				if _, name, ok := bytes.Cut(buf[:k], []byte(marker)); ok {
					name, _, _ := bytes.Cut(name, []byte{0})
					counts[string(name)]++
				}
			}
		}
		time.Sleep(time.Millisecond)
	}
	return counts
}

const repeats = 5

// passed sends each kind some times as the guest whose tap that is, and counts
// those that got past the filter. It first waits for the port to be running.
func passed(t *testing.T, n *Namespace, tap *os.File, all ...kind) map[string]int {
	t.Helper()
	s := sniff(t, n, tapName(1))
	honest, _ := kinds(n.Plan())
	write := func(k kind, name string) {
		b := k.frame(fmt.Appendf(nil, "%s%s\x00", marker, name))
		if _, err := tap.Write(append(make([]byte, vnetHeader), b...)); err != nil {
			t.Errorf("send %s: %v", name, err)
		}
	}
	for start := time.Now(); ; {
		write(honest[0], "begin")
		if s.seen(t, "begin", 10*time.Millisecond)["begin"] > 0 {
			break
		}
		if time.Since(start) > patience {
			t.Fatal("no frame passes the bridge")
		}
	}
	for _, k := range all {
		for range repeats {
			write(k, k.name)
		}
	}
	write(honest[0], "end")
	counts := s.seen(t, "end", patience)
	delete(counts, "begin")
	delete(counts, "end")
	return counts
}

func TestFilterStopsForgedFrames(t *testing.T) {
	_, cfg := newHost(t)
	n := ensure(t, cfg)
	for slot := range 2 {
		must(t, n.CreateTap(t.Context(), Tap{Slot: slot, VMID: "a", Policy: Full}))
	}
	tap := attach(t, n.inner, tapName(0))
	attach(t, n.inner, tapName(1)) // a port that nobody has open is not running
	honest, forged := kinds(n.Plan())

	got := passed(t, n, tap, append(honest, forged...)...)
	for _, k := range honest {
		if got[k.name] != repeats {
			t.Errorf("honest %s: %d of %d passed", k.name, got[k.name], repeats)
		}
	}
	for _, k := range forged {
		if got[k.name] != 0 {
			t.Errorf("forged %s: %d of %d passed", k.name, got[k.name], repeats)
		}
	}

	// Without the filter they do pass: what was seen above is its doing.
	c, err := n.nft()
	must(t, err)
	n.eraseFilter(c, 0)
	must(t, c.Flush())
	got = passed(t, n, tap, forged...)
	for _, k := range forged {
		if got[k.name] == 0 && !k.checkedByBridge {
			t.Errorf("%s does not pass without a filter either: the test does not see it", k.name)
		}
	}

	// And the next CreateTap puts the filter back.
	must(t, n.CreateTap(t.Context(), Tap{Slot: 0, VMID: "a", Policy: Full}))
	for name, count := range passed(t, n, tap, forged...) {
		t.Errorf("forged %s: %d passed after the repair", name, count)
	}
}
