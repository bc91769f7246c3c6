package names

import (
	"context"
	"net"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

// upstreamServer answers every A query with 192.0.2.1, over UDP and TCP on the
// same port of 127.0.0.1. alter may change an answer, or drop it by returning
// nothing.
type upstreamServer struct {
	addr    netip.AddrPort
	asked   atomic.Int64
	sawEDNS atomic.Bool
	alter   func(network string, reply *dnsmessage.Message) [][]byte
}

func newUpstream(t *testing.T, alter func(string, *dnsmessage.Message) [][]byte) *upstreamServer {
	u := &upstreamServer{alter: alter}
	pc, ln := listenBoth(t)
	u.addr = netip.MustParseAddrPort(pc.LocalAddr().String())
	t.Cleanup(func() { pc.Close(); ln.Close() })
	go func() {
		buf := make([]byte, 4096)
		for {
			n, from, err := pc.ReadFrom(buf)
			if err != nil {
				return
			}
			for _, r := range u.replies(t, "udp", buf[:n]) {
				pc.WriteTo(r, from)
			}
		}
	}()
	go func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			if msg, err := readMessage(conn); err == nil {
				for _, r := range u.replies(t, "tcp", msg) {
					writeMessage(conn, r)
				}
			}
			conn.Close()
		}
	}()
	return u
}

func (u *upstreamServer) replies(t *testing.T, network string, raw []byte) [][]byte {
	u.asked.Add(1)
	var m dnsmessage.Message
	if err := m.Unpack(raw); err != nil {
		t.Errorf("upstream got %x: %v", raw, err)
		return nil
	}
	u.sawEDNS.Store(len(m.Additionals) > 0)
	m.Response, m.RecursionAvailable = true, true
	m.Answers = []dnsmessage.Resource{{
		Header: dnsmessage.ResourceHeader{Name: m.Questions[0].Name, Type: dnsmessage.TypeA, Class: dnsmessage.ClassINET, TTL: 60},
		Body:   &dnsmessage.AResource{A: [4]byte{192, 0, 2, 1}},
	}}
	if u.alter != nil {
		return u.alter(network, &m)
	}
	return [][]byte{pack(t, &m)}
}

func pack(t *testing.T, m *dnsmessage.Message) []byte {
	raw, err := m.Pack()
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// listenBoth listens at one port of loopback, by UDP and TCP.
func listenBoth(t *testing.T) (net.PacketConn, net.Listener) {
	for range 20 {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		pc, err := net.ListenPacket("udp", ln.Addr().String())
		if err == nil {
			return pc, ln
		}
		ln.Close()
	}
	t.Fatal("no port is free for both")
	return nil, nil
}

// hostAddr is the host's address, which asks too.
const hostAddr = "127.0.0.9"

// serve runs a Server that knows web = 127.0.0.77, and returns its address.
func serve(t *testing.T, prefix string, ups ...*upstreamServer) string {
	web := netip.MustParseAddr("127.0.0.77")
	var servers []netip.AddrPort
	for _, u := range ups {
		servers = append(servers, u.addr)
	}
	s := &Server{
		Lookup:   func(name string) (netip.Addr, bool) { return web, name == "web" },
		Reverse:  func(a netip.Addr) (string, bool) { return "web", a == web },
		Prefix:   netip.MustParsePrefix(prefix),
		Gateway:  netip.MustParseAddr("127.0.0.1"),
		Host:     netip.MustParseAddr(hostAddr),
		Upstream: func() []netip.AddrPort { return servers },
	}
	pc, ln := listenBoth(t)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, pc, ln) }()
	t.Cleanup(func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				t.Errorf("Serve: %v", err)
			}
		case <-time.After(10 * time.Second):
			t.Error("Serve does not end")
		}
	})
	return pc.LocalAddr().String()
}

func question(name string, qtype dnsmessage.Type) dnsmessage.Message {
	return dnsmessage.Message{
		Header:    dnsmessage.Header{ID: 4711, RecursionDesired: true},
		Questions: []dnsmessage.Question{{Name: dnsmessage.MustNewName(name), Type: qtype, Class: dnsmessage.ClassINET}},
	}
}

// ask sends one message from a local address and waits for an answer.
func ask(t *testing.T, network, from, to string, raw []byte, wait time.Duration) (dnsmessage.Message, error) {
	t.Helper()
	d := net.Dialer{Timeout: 10 * time.Second}
	ip := net.ParseIP(from)
	d.LocalAddr = &net.UDPAddr{IP: ip}
	if network == "tcp" {
		d.LocalAddr = &net.TCPAddr{IP: ip}
	}
	conn, err := d.Dial(network, to)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(wait))
	var m dnsmessage.Message
	if network == "tcp" {
		if err := writeMessage(conn, raw); err != nil {
			return m, err
		}
		reply, err := readMessage(conn)
		if err != nil {
			return m, err
		}
		return m, m.Unpack(reply)
	}
	conn.Write(raw)
	buf := make([]byte, 65536)
	n, err := conn.Read(buf)
	if err != nil {
		return m, err
	}
	return m, m.Unpack(buf[:n])
}
