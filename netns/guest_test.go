package netns

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"banger/netns/rtnl"
)

// vnetHeader is what precedes a frame on a tap: struct virtio_net_hdr.
const vnetHeader = 10

// attach opens a tap as the VM's user does.
func attach(t *testing.T, s space, name string) *os.File {
	t.Helper()
	var f *os.File
	must(t, s.do(func() error {
		fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
		if err != nil {
			return err
		}
		req, err := unix.NewIfreq(name)
		if err != nil {
			return err
		}
		req.SetUint16(tapFlags)
		if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, req); err != nil {
			unix.Close(fd)
			return err
		}
		// Only an attached descriptor can be polled.
		f = os.NewFile(uintptr(fd), name)
		return nil
	}))
	t.Cleanup(func() { f.Close() })
	return f
}

// newGuest makes a tap, and behind it a namespace with the kernel's own network
// stack, configured as a guest configures itself. What the guest sends on its
// eth0 is written to the tap, and the other way round.
func newGuest(t *testing.T, n *Namespace, slot int, p Policy) space {
	t.Helper()
	must(t, n.CreateTap(t.Context(), Tap{Slot: slot, UID: 1000, VMID: "guest-" + tapName(slot), Policy: p}))
	guest := newSpace(t)
	tap, eth0 := attach(t, n.inner, tapName(slot)), attach(t, guest, "eth0")
	var wg sync.WaitGroup
	wg.Go(func() { io.CopyBuffer(struct{ io.Writer }{tap}, struct{ io.Reader }{eth0}, make([]byte, 1<<16)) })
	wg.Go(func() { io.CopyBuffer(struct{ io.Writer }{eth0}, struct{ io.Reader }{tap}, make([]byte, 1<<16)) })
	t.Cleanup(func() {
		tap.Close()
		eth0.Close()
		wg.Wait()
	})

	c := dial(t, guest)
	l, err := c.Link("eth0")
	must(t, err)
	must(t, c.SetLink(l.Index, rtnl.MAC(n.Plan().MAC(slot)), rtnl.MTU(n.MTU()), rtnl.Up))
	must(t, c.SetAddr(l.Index, netip.PrefixFrom(n.Plan().Guest(slot), n.Plan().Link().Bits())))
	defaultRoute(t, guest, "eth0", n.Plan().Gateway().String())
	return guest
}

// serve answers "hello" on every TCP connection to the address.
func serve(t *testing.T, s space, addr string) {
	t.Helper()
	var l net.Listener
	must(t, s.do(func() (err error) {
		l, err = net.Listen("tcp4", addr)
		return err
	}))
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				c.Write([]byte("hello"))
				io.Copy(c, c) // an echo from then on
			}()
		}
	}()
}

// What should work takes a few milliseconds, and may take long on a busy machine.
// What should not is waited for no longer than a moment.
const (
	patience = 10 * time.Second
	moment   = 250 * time.Millisecond
)

// connect dials from a namespace, and reads the greeting.
func connect(t *testing.T, s space, addr string, wait time.Duration) (net.Conn, error) {
	t.Helper()
	var c net.Conn
	ctx, cancel := context.WithTimeout(t.Context(), wait)
	defer cancel()
	err := s.do(func() (err error) {
		var d net.Dialer
		// The socket is made on this thread: the address needs no resolver,
		// and there is only one to try.
		c, err = d.DialContext(ctx, "tcp4", addr)
		return err
	})
	if err != nil {
		return nil, err
	}
	t.Cleanup(func() { c.Close() })
	return c, exchange(c, "", "hello", wait)
}

// exchange writes, and expects an answer in time.
func exchange(c net.Conn, say, want string, wait time.Duration) error {
	c.SetDeadline(time.Now().Add(wait))
	if _, err := c.Write([]byte(say)); err != nil {
		return err
	}
	buf := make([]byte, len(want))
	if _, err := io.ReadFull(c, buf); err != nil {
		return err
	}
	if string(buf) != want {
		return errors.New("got " + string(buf))
	}
	return nil
}

// datagram sends one from a namespace and reports whether it was answered.
func datagram(t *testing.T, s space, addr, say string, wait time.Duration) (string, error) {
	t.Helper()
	var c net.Conn
	must(t, s.do(func() (err error) {
		c, err = net.Dial("udp4", addr)
		return err
	}))
	defer c.Close()
	c.SetDeadline(time.Now().Add(wait))
	if _, err := c.Write([]byte(say)); err != nil {
		return "", err
	}
	buf := make([]byte, 512)
	k, err := c.Read(buf)
	return string(buf[:k]), err
}

// world is a host between a LAN with a private server, a server on the internet
// and banger's network:
//
//	198.51.100.10 (internet) --- .1 host .1 --- 10.9.9.10 (LAN)
type world struct {
	host, internet, lan space
	n                   *Namespace
	cfg                 Config
}

const (
	internetServer = "198.51.100.10:8080"
	lanServer      = "10.9.9.10:8080"
)

func newWorld(t *testing.T) world {
	host, cfg := newHost(t)
	w := world{host: host, cfg: cfg, internet: newSpace(t), lan: newSpace(t)}
	join(t, host, "wan", "198.51.100.1/24", w.internet, "eth0", "198.51.100.10/24")
	join(t, host, "lan", "10.9.9.1/24", w.lan, "eth0", "10.9.9.10/24")
	serve(t, w.internet, internetServer)
	serve(t, w.lan, lanServer)
	w.n = ensure(t, cfg)
	return w
}

func reaches(t *testing.T, from space, addr, what string) net.Conn {
	t.Helper()
	c, err := connect(t, from, addr, patience)
	if err != nil {
		t.Errorf("%s: %s is not reached: %v", what, addr, err)
	}
	return c
}

func barred(t *testing.T, from space, addr, what string) {
	t.Helper()
	c, err := connect(t, from, addr, moment)
	if err == nil {
		t.Errorf("%s: %s is reached", what, addr)
		c.Close()
		return
	}
	var errno syscall.Errno
	if !os.IsTimeout(err) && !errors.Is(err, context.DeadlineExceeded) && !errors.As(err, &errno) {
		t.Errorf("%s: %s: odd error %v", what, addr, err)
	}
}

func TestPolicies(t *testing.T) {
	w := newWorld(t)
	guests := map[Policy]space{None: {}, Internet: {}, Full: {}}
	for p := range guests {
		guests[p] = newGuest(t, w.n, int(p), p)
	}
	peer := newGuest(t, w.n, 9, Full)
	serve(t, peer, ":8080")
	serve(t, w.host, ":22") // on every address of the host
	serve(t, w.host, ":53")

	plan := w.n.Plan()
	tests := []struct {
		what, addr string
		allowed    []Policy
	}{
		{"a server on the internet", internetServer, []Policy{Internet, Full}},
		{"a server on the host's LAN", lanServer, []Policy{Full}},
		{"the host's public address", "198.51.100.1:22", nil},
		{"the host's LAN address", "10.9.9.1:22", nil},
		{"the host's end of the uplink", plan.UplinkHost().String() + ":22", nil},
		{"the host's end of the uplink, port 53", plan.UplinkHost().String() + ":53", nil},
		{"the inner end of the uplink", plan.UplinkInside().String() + ":22", nil},
		{"the gateway", plan.Gateway().String() + ":22", nil},
		{"another guest", plan.Guest(9).String() + ":8080", nil},
		{"the metadata service", "169.254.169.254:80", nil},
	}
	var wg sync.WaitGroup
	for _, tt := range tests {
		for p, guest := range guests {
			what := p.String() + " to " + tt.what
			wg.Go(func() {
				if slices.Contains(tt.allowed, p) {
					reaches(t, guest, tt.addr, what)
				} else {
					barred(t, guest, tt.addr, what)
				}
			})
		}
	}
	wg.Wait()
	reaches(t, w.internet, "198.51.100.1:22", "the internet to the host, which does listen")
	// The host reaches guests whatever their policy: published ports and ssh
	// are for the user to give away. A LAN, with a route, does not.
	serve(t, guests[None], ":22")
	reaches(t, w.host, plan.Guest(int(None)).String()+":22", "host to guest")
	defaultRoute(t, w.lan, "eth0", "10.9.9.1")
	barred(t, w.lan, plan.Guest(9).String()+":8080", "LAN to guest")
	reaches(t, w.host, plan.Guest(9).String()+":8080", "host to the same guest")
}

func TestSetPolicyHoldsForOpenConnections(t *testing.T) {
	w := newWorld(t)
	guest := newGuest(t, w.n, 0, Internet)
	c := reaches(t, guest, internetServer, "before")
	if c == nil {
		t.FailNow()
	}
	must(t, exchange(c, "ping", "ping", patience))
	must(t, w.n.setPolicy(t.Context(), 0, None))
	if err := exchange(c, "ping", "ping", moment); err == nil {
		t.Error("an open connection outlived the policy")
	}
	barred(t, guest, internetServer, "after none")
	must(t, w.n.setPolicy(t.Context(), 0, Full))
	reaches(t, guest, lanServer, "after full")
	must(t, w.n.setPolicy(t.Context(), 0, Internet))
	barred(t, guest, lanServer, "after internet")
	reaches(t, guest, internetServer, "after internet")
}

func TestGuestsCannotReachEachOtherByAnyRoute(t *testing.T) {
	w := newWorld(t)
	a, b := newGuest(t, w.n, 0, Full), newGuest(t, w.n, 1, Full)
	serve(t, b, ":8080")
	addr := w.n.Plan().Guest(1).String() + ":8080"
	barred(t, a, addr, "on the link")

	// Hairpin: both agree to send by the gateway, and know each other's address.
	for slot, guest := range []space{a, b} {
		c := dial(t, guest)
		l, err := c.Link("eth0")
		must(t, err)
		peer := w.n.Plan().Guest(1 - slot)
		must(t, c.SetRoute(rtnl.Route{Dst: netip.PrefixFrom(peer, 32), Via: w.n.Plan().Gateway(), Index: l.Index}))
	}
	barred(t, a, addr, "by the gateway")
	if got, err := datagram(t, a, w.n.Plan().Guest(1).String()+":8080", "x", moment); err == nil {
		t.Errorf("datagram by the gateway was answered: %q", got)
	}
	for slot, guest := range []space{a, b} {
		c := dial(t, guest)
		l, err := c.Link("eth0")
		must(t, err)
		peer := 1 - slot
		must(t, c.SetNeighbour(rtnl.Neighbour{Index: l.Index, IP: w.n.Plan().Guest(peer), MAC: w.n.Plan().MAC(peer)}))
		must(t, c.SetRoute(rtnl.Route{Dst: netip.PrefixFrom(w.n.Plan().Guest(peer), 32), Index: l.Index}))
	}
	barred(t, a, addr, "by hardware address")
	reaches(t, w.host, addr, "host to the same server")
}

func TestFlushingTheHostsRulesOpensNothing(t *testing.T) {
	w := newWorld(t)
	a, b := newGuest(t, w.n, 0, Internet), newGuest(t, w.n, 1, Full)
	serve(t, b, ":8080")
	serve(t, w.host, ":22")
	flush, err := transaction(w.host)
	must(t, err)
	flush.FlushRuleset()
	must(t, flush.Flush())

	barred(t, a, w.n.Plan().Guest(1).String()+":8080", "guest to guest")
	barred(t, a, lanServer, "guest to LAN")
	barred(t, a, "198.51.100.1:22", "guest to the host's service")
	barred(t, a, internetServer, "guest to the internet, unmasqueraded")

	again, err := Ensure(t.Context(), w.cfg)
	must(t, err)
	again.Close()
	reaches(t, a, internetServer, "repaired by Ensure")
}

func TestHostServicesStayBarredOnNewAddresses(t *testing.T) {
	w := newWorld(t)
	guest := newGuest(t, w.n, 0, Full)
	serve(t, w.host, ":22")
	join(t, w.host, "wan2", "203.0.113.1/24", newSpace(t), "eth0", "203.0.113.2/24") // after Ensure
	barred(t, guest, "203.0.113.1:22", "guest to the host's new address")
}

// What the host publishes for others by a rule of its own is a service of the host, at
// whatever address it is asked.
func TestPublishedServicesStayBarred(t *testing.T) {
	w := newWorld(t)
	guests := map[Policy]space{Internet: newGuest(t, w.n, 0, Internet), Full: newGuest(t, w.n, 1, Full)}
	join(t, w.host, "wan2", "203.0.113.1/24", newSpace(t), "eth0", "203.0.113.2/24") // after Ensure
	c, err := transaction(w.host)
	must(t, err)
	table := c.AddTable(&nftables.Table{Name: "publish", Family: nftables.TableFamilyIPv4})
	chain := c.AddChain(&nftables.Chain{Name: "prerouting", Table: table, Type: nftables.ChainTypeNAT,
		Hooknum: nftables.ChainHookPrerouting, Priority: nftables.ChainPriorityNATDest})
	rule(c, chain, proto(unix.IPPROTO_TCP), port(destPort, 8000), match{
		&expr.Immediate{Register: reg, Data: []byte{10, 9, 9, 10}},
		&expr.Immediate{Register: reg + 1, Data: []byte{8080 >> 8, 8080 & 0xff}},
		&expr.NAT{Type: expr.NATTypeDestNAT, Family: unix.NFPROTO_IPV4, RegAddrMin: reg, RegProtoMin: reg + 1},
	})
	must(t, c.Flush())
	defaultRoute(t, w.lan, "eth0", "10.9.9.1")

	for _, addr := range []string{"203.0.113.1:8000", "198.51.100.1:8000"} {
		reaches(t, w.internet, "198.51.100.1:8000", "the internet to what is published")
		for p, guest := range guests {
			barred(t, guest, addr, p.String()+" to what is published")
		}
	}
	reaches(t, guests[Full], lanServer, "full to the same server by its own address")
}

// The namespace answers, and opens no connection: what runs in it is of guests.
func TestNamespaceReachesNobody(t *testing.T) {
	w := newWorld(t)
	guest := newGuest(t, w.n, 0, Full)
	serve(t, guest, ":8080")
	serve(t, w.host, ":22")
	for what, addr := range map[string]string{
		"the internet":      internetServer,
		"the LAN":           lanServer,
		"a guest":           w.n.Plan().Guest(0).String() + ":8080",
		"the host":          w.n.Plan().UplinkHost().String() + ":22",
		"metadata services": "169.254.169.254:80",
	} {
		barred(t, w.n.inner, addr, "the namespace to "+what)
	}
	if _, err := datagram(t, w.n.inner, w.n.Plan().Guest(0).String()+":8080", "x", moment); err == nil {
		t.Error("the namespace has sent a datagram")
	}
	reaches(t, guest, internetServer, "the guest")
}

func TestResolverIsReachedByThoseWithAPolicy(t *testing.T) {
	w := newWorld(t)
	udp, tcp, err := w.n.ListenDNS(t.Context())
	must(t, err)
	defer udp.Close()
	defer tcp.Close()
	packets, err := net.FilePacketConn(udp)
	must(t, err)
	defer packets.Close()
	go func() {
		buf := make([]byte, 512)
		for {
			k, from, err := packets.ReadFrom(buf)
			if err != nil {
				return
			}
			packets.WriteTo(append([]byte("re: "), buf[:k]...), from)
		}
	}()
	streams, err := net.FileListener(tcp)
	must(t, err)
	defer streams.Close()
	go func() {
		for {
			c, err := streams.Accept()
			if err != nil {
				return
			}
			c.Write([]byte("hello"))
			c.Close()
		}
	}()

	gateway := w.n.Plan().Gateway().String()
	online, offline := newGuest(t, w.n, 0, Internet), newGuest(t, w.n, 1, None)
	for who, s := range map[string]space{"guest": online, "host": w.host} {
		if got, err := datagram(t, s, gateway+":53", "who", patience); got != "re: who" {
			t.Errorf("%s: %q, %v", who, got, err)
		}
		reaches(t, s, gateway+":53", who)
	}
	if got, err := datagram(t, offline, gateway+":53", "who", moment); err == nil {
		t.Errorf("policy none was answered: %q", got)
	}
	barred(t, offline, gateway+":53", "policy none")
	barred(t, w.lan, gateway+":53", "LAN")
}

func TestFlowsOfOneGuestAreLimited(t *testing.T) {
	w := newWorld(t)
	guest, other := newGuest(t, w.n, 0, Internet), newGuest(t, w.n, 1, Internet)
	reaches(t, guest, internetServer, "before")
	deadline := time.Now().Add(patience)
	for {
		must(t, flood(guest, netip.MustParseAddr("198.51.100.10")))
		if c, err := connect(t, guest, internetServer, moment); err != nil {
			break
		} else {
			c.Close()
		}
		if time.Now().After(deadline) {
			t.Fatalf("a guest with more than %d flows still gets new ones", maxFlows)
		}
	}
	reaches(t, other, internetServer, "another guest")
}

// flood opens more flows than a guest may have, a few at a time, for the queue
// of a tap is short. Some may be lost: it is to be called again.
func flood(guest space, server netip.Addr) error {
	return guest.do(func() error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		to := &unix.SockaddrInet4{Addr: server.As4()}
		for i := range maxFlows + 100 {
			to.Port = 10000 + i
			// The server says that nobody listens: an error that comes later.
			if err := unix.Sendto(fd, nil, 0, to); err != nil && err != unix.ECONNREFUSED {
				return err
			}
			if i%100 == 0 {
				time.Sleep(time.Millisecond)
			}
		}
		return nil
	})
}
