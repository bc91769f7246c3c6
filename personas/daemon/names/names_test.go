package names

import (
	"context"
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

func TestLocalNames(t *testing.T) {
	up := newUpstream(t, nil)
	addr := serve(t, "127.0.0.0/8", up)
	for _, c := range []struct {
		name  string
		qtype dnsmessage.Type
		code  dnsmessage.RCode
		want  string // of the answer; empty for none
	}{
		{"web.vm.", dnsmessage.TypeA, 0, "127.0.0.77"},
		{"WeB.Vm.", dnsmessage.TypeA, 0, "127.0.0.77"},
		{"web.vm.", dnsmessage.TypeAAAA, 0, ""},
		{"db.vm.", dnsmessage.TypeA, dnsmessage.RCodeNameError, ""},
		{"www.web.vm.", dnsmessage.TypeA, dnsmessage.RCodeNameError, ""},
		{"_banger.vm.", dnsmessage.TypeA, 0, "127.0.0.1"},
		{"vm.", dnsmessage.TypeNS, 0, ""},
		{"77.0.0.127.in-addr.arpa.", dnsmessage.TypePTR, 0, "web.vm."},
		{"78.0.0.127.in-addr.arpa.", dnsmessage.TypePTR, dnsmessage.RCodeNameError, ""},
	} {
		for _, network := range []string{"udp", "tcp"} {
			q := question(c.name, c.qtype)
			m, err := ask(t, network, "127.0.0.1", addr, pack(t, &q), 5*time.Second)
			if err != nil {
				t.Fatalf("%s %v: %v", c.name, c.qtype, err)
			}
			got := ""
			if len(m.Answers) == 1 {
				switch b := m.Answers[0].Body.(type) {
				case *dnsmessage.AResource:
					got = netip.AddrFrom4(b.A).String()
				case *dnsmessage.PTRResource:
					got = b.PTR.String()
				}
			}
			if m.ID != 4711 || !m.Response || !m.Authoritative || m.RCode != c.code || got != c.want {
				t.Errorf("%s %s %v: %s %q, want %v %q", network, c.name, c.qtype, m.RCode, got, c.code, c.want)
			}
		}
	}
	if n := up.asked.Load(); n != 0 {
		t.Errorf("%d names of ours left the host", n)
	}
}

// The host's own resolver asks for names of VMs, and must not be sent in a circle
// with others.
func TestHostAsks(t *testing.T) {
	up := newUpstream(t, nil)
	addr := serve(t, "127.9.0.0/16", up)
	for _, c := range []struct {
		from, name string
		code       dnsmessage.RCode
		answers    int
	}{
		{hostAddr, "web.vm.", 0, 1},
		{hostAddr, "db.vm.", dnsmessage.RCodeNameError, 0},
		{hostAddr, "example.org.", dnsmessage.RCodeRefused, 0},
		{"127.9.0.2", "example.org.", 0, 1},
	} {
		for _, network := range []string{"udp", "tcp"} {
			q := question(c.name, dnsmessage.TypeA)
			m, err := ask(t, network, c.from, addr, pack(t, &q), 5*time.Second)
			if err != nil {
				t.Fatalf("%s from %s: %v", c.name, c.from, err)
			}
			if m.RCode != c.code || len(m.Answers) != c.answers {
				t.Errorf("%s %s from %s: %s with %d answers, want %s with %d", network, c.name, c.from, m.RCode, len(m.Answers), c.code, c.answers)
			}
		}
	}
	q := question("web.vm.", dnsmessage.TypeA)
	if _, err := ask(t, "udp", "127.0.0.8", addr, pack(t, &q), 200*time.Millisecond); err == nil {
		t.Error("a stranger was answered")
	}
}

// The path that the user takes: a real resolver.
func TestRealResolver(t *testing.T) {
	up := newUpstream(t, nil)
	addr := serve(t, "127.0.0.0/8", up)
	r := &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, network, addr)
	}}
	for name, want := range map[string]string{"web.vm.": "127.0.0.77", "example.org.": "192.0.2.1"} {
		got, err := r.LookupHost(t.Context(), name)
		if err != nil || !slices.Contains(got, want) {
			t.Errorf("%s: %v, %v", name, got, err)
		}
	}
	var notFound *net.DNSError
	if _, err := r.LookupHost(t.Context(), "db.vm."); !errors.As(err, &notFound) || !notFound.IsNotFound {
		t.Errorf("db.vm: %v", err)
	}
	if names, err := r.LookupAddr(t.Context(), "127.0.0.77"); err != nil || !slices.Equal(names, []string{"web.vm."}) {
		t.Errorf("reverse: %v, %v", names, err)
	}
}

func TestForwardKeepsEDNSAndID(t *testing.T) {
	up := newUpstream(t, nil)
	addr := serve(t, "127.0.0.0/8", up)
	q := question("example.org.", dnsmessage.TypeA)
	var h dnsmessage.ResourceHeader
	if err := h.SetEDNS0(1232, 0, true); err != nil {
		t.Fatal(err)
	}
	q.Additionals = []dnsmessage.Resource{{Header: h, Body: &dnsmessage.OPTResource{}}}
	for _, network := range []string{"udp", "tcp"} {
		m, err := ask(t, network, "127.0.0.1", addr, pack(t, &q), 5*time.Second)
		if err != nil || m.ID != 4711 || len(m.Answers) != 1 || m.Authoritative {
			t.Errorf("%s: %+v, %v", network, m, err)
		}
		if !up.sawEDNS.Load() {
			t.Errorf("%s: EDNS was lost", network)
		}
	}
}

func TestLargeAnswerComesOverTCP(t *testing.T) {
	up := newUpstream(t, func(network string, m *dnsmessage.Message) [][]byte {
		for range 100 { // 1.7 KB
			m.Answers = append(m.Answers, m.Answers[0])
		}
		raw, _ := m.Pack()
		return [][]byte{raw}
	})
	addr := serve(t, "127.0.0.0/8", up)
	q := question("large.example.", dnsmessage.TypeA)
	m, err := ask(t, "udp", "127.0.0.1", addr, pack(t, &q), 5*time.Second)
	if err != nil || !m.Truncated || len(m.Answers) != 0 {
		t.Errorf("udp: truncated %t, %d answers, %v", m.Truncated, len(m.Answers), err)
	}
	m, err = ask(t, "tcp", "127.0.0.1", addr, pack(t, &q), 5*time.Second)
	if err != nil || m.Truncated || len(m.Answers) != 101 {
		t.Errorf("tcp: truncated %t, %d answers, %v", m.Truncated, len(m.Answers), err)
	}
}

func TestNextUpstreamIsAsked(t *testing.T) {
	q := question("example.org.", dnsmessage.TypeA)
	for name, bad := range map[string]func(string, *dnsmessage.Message) [][]byte{
		"silent": func(string, *dnsmessage.Message) [][]byte { return nil },
		"refusing": func(_ string, m *dnsmessage.Message) [][]byte {
			m.RCode, m.Answers = dnsmessage.RCodeRefused, nil
			raw, _ := m.Pack()
			return [][]byte{raw}
		},
		"wrong id": func(_ string, m *dnsmessage.Message) [][]byte {
			m.ID++
			raw, _ := m.Pack()
			return [][]byte{raw}
		},
		"other question": func(_ string, m *dnsmessage.Message) [][]byte {
			m.Questions[0].Name = dnsmessage.MustNewName("evil.example.")
			raw, _ := m.Pack()
			return [][]byte{raw}
		},
		"garbage": func(string, *dnsmessage.Message) [][]byte { return [][]byte{{1, 2, 3}} },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			addr := serve(t, "127.0.0.0/8", newUpstream(t, bad), newUpstream(t, nil))
			m, err := ask(t, "udp", "127.0.0.1", addr, pack(t, &q), 5*time.Second)
			if err != nil || m.RCode != 0 || len(m.Answers) != 1 {
				t.Errorf("%v, %v", m.RCode, err)
			}
		})
	}
}

// An answer that was forged goes past, and the true one behind it is taken.
func TestForgedAnswerIsPassedOver(t *testing.T) {
	up := newUpstream(t, func(_ string, m *dnsmessage.Message) [][]byte {
		good, _ := m.Pack()
		forged := append([]byte(nil), good...)
		binary.BigEndian.PutUint16(forged, m.ID+1)
		forged[len(forged)-1] = 66
		return [][]byte{forged, good}
	})
	addr := serve(t, "127.0.0.0/8", up)
	q := question("example.org.", dnsmessage.TypeA)
	m, err := ask(t, "udp", "127.0.0.1", addr, pack(t, &q), 5*time.Second)
	if err != nil || len(m.Answers) != 1 || m.Answers[0].Body.(*dnsmessage.AResource).A != [4]byte{192, 0, 2, 1} {
		t.Errorf("%+v, %v", m, err)
	}
}

func TestNoUpstreamIsAFailure(t *testing.T) {
	addr := serve(t, "127.0.0.0/8")
	q := question("example.org.", dnsmessage.TypeA)
	m, err := ask(t, "udp", "127.0.0.1", addr, pack(t, &q), 5*time.Second)
	if err != nil || m.RCode != dnsmessage.RCodeServerFailure {
		t.Errorf("%v, %v", m.RCode, err)
	}
}

func TestStrangersAndMalformedAreNotAnswered(t *testing.T) {
	addr := serve(t, "127.0.0.2/32")
	q := question("web.vm.", dnsmessage.TypeA)
	good := pack(t, &q)
	if m, err := ask(t, "udp", "127.0.0.2", addr, good, 5*time.Second); err != nil || len(m.Answers) != 1 {
		t.Fatalf("guest: %v", err)
	}
	const silence = 150 * time.Millisecond
	for _, network := range []string{"udp", "tcp"} {
		if _, err := ask(t, network, "127.0.0.1", addr, good, silence); err == nil {
			t.Errorf("%s: a stranger was answered", network)
		}
		answer, two := q, q
		answer.Response = true
		two.Questions = append(slices.Clone(two.Questions), two.Questions[0])
		for what, raw := range map[string][]byte{
			"short": good[:8], "cut": good[:len(good)-3], "answer": pack(t, &answer), "two questions": pack(t, &two),
			"no question": good[:4:4], "noise": []byte(strings.Repeat("x", 600)),
		} {
			if _, err := ask(t, network, "127.0.0.2", addr, raw, silence); err == nil {
				t.Errorf("%s: %s was answered", network, what)
			}
		}
	}
	if m, err := ask(t, "udp", "127.0.0.2", addr, good, 5*time.Second); err != nil || len(m.Answers) != 1 {
		t.Errorf("guest, afterwards: %v", err)
	}
}

// A guest whose queries hang, or that asks without end, leaves the others their
// share.
func TestGreedyGuest(t *testing.T) {
	up := newUpstream(t, func(string, *dnsmessage.Message) [][]byte { return nil })
	addr := serve(t, "127.0.0.0/8", up)
	d := net.Dialer{LocalAddr: &net.UDPAddr{IP: net.IPv4(127, 0, 0, 9)}}
	conn, err := d.Dial("udp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	slow, local := question("slow.example.", dnsmessage.TypeA), question("web.vm.", dnsmessage.TypeA)
	for range 3 * maxInFlight {
		conn.Write(pack(t, &slow))
	}
	for range 10 * rateBurst {
		conn.Write(pack(t, &local))
	}
	// The flood may fill the socket's buffer for a moment, so the other guest
	// asks again, as every resolver does.
	var m dnsmessage.Message
	for range 5 {
		if m, err = ask(t, "udp", "127.0.0.10", addr, pack(t, &local), time.Second); err == nil {
			break
		}
	}
	if err != nil || len(m.Answers) != 1 {
		t.Errorf("another guest: %v", err)
	}
	if n := up.asked.Load(); n > maxGuest {
		t.Errorf("%d queries of one guest were under way, want at most %d", n, maxGuest)
	}
}

func TestLimits(t *testing.T) {
	var l limits
	now := time.Unix(1000, 0)
	guest := netip.MustParseAddr("10.0.0.2")
	for i := range rateBurst {
		release, ok := l.begin(guest, now)
		if !ok {
			t.Fatalf("query %d of the burst was refused", i)
		}
		release()
	}
	if _, ok := l.begin(guest, now); ok {
		t.Error("more than the burst")
	}
	if _, ok := l.begin(guest, now.Add(time.Second/ratePerSecond+time.Millisecond)); !ok {
		t.Error("nothing comes back with time")
	}
	for i := range 2 * maxKnown {
		if release, ok := l.begin(netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)}), now); ok {
			release()
		}
	}
	if len(l.guests) > maxKnown {
		t.Errorf("%d guests are remembered", len(l.guests))
	}
	if l.guests[guest] == nil {
		t.Error("a guest with a query under way was forgotten")
	}
}

func TestUpstreamIsReadAgain(t *testing.T) {
	path := t.TempDir() + "/resolv.conf"
	write := func(text string) {
		if err := os.WriteFile(path+".new", []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(path+".new", path); err != nil {
			t.Fatal(err)
		}
	}
	u := &upstream{path: path}
	if got := u.get(); got != nil {
		t.Errorf("without a file: %v", got)
	}
	write("# comment\nsearch x\nnameserver 127.0.0.53\nnameserver nonsense\nnameserver fe80::1%eth0\noptions edns0\n")
	u.checked = time.Time{}
	want := []netip.AddrPort{netip.MustParseAddrPort("127.0.0.53:53"), netip.MustParseAddrPort("[fe80::1%eth0]:53")}
	if got := u.get(); !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	write("nameserver 192.0.2.53\n")
	u.checked = time.Time{}
	if got := u.get(); !slices.Equal(got, []netip.AddrPort{netip.MustParseAddrPort("192.0.2.53:53")}) {
		t.Errorf("after a change: %v", got)
	}
	os.Remove(path)
	u.checked = time.Time{}
	if got := u.get(); len(got) != 1 {
		t.Errorf("without the file: %v, want what was known", got)
	}
}

func FuzzQuery(f *testing.F) {
	for _, name := range []string{"web.vm.", "example.org.", "77.0.0.127.in-addr.arpa.", "."} {
		q := question(name, dnsmessage.TypeA)
		raw, err := q.Pack()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(raw)
	}
	s := &Server{
		Lookup:  func(name string) (netip.Addr, bool) { return netip.MustParseAddr("10.0.0.2"), len(name)%2 == 1 },
		Reverse: func(netip.Addr) (string, bool) { return "web", true },
		Prefix:  netip.MustParsePrefix("10.0.0.0/8"),
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		q, err := parse(raw)
		if err != nil {
			return
		}
		reply, ok := s.local(q, netip.Addr{})
		if !ok {
			reply = q.reply(dnsmessage.RCodeServerFailure, false)
		}
		reply = fit(reply, q)
		if len(reply) > q.size {
			t.Errorf("reply of %d bytes to one who takes %d", len(reply), q.size)
		}
		// What we say is what we would take for an answer.
		if len(reply) > 0 {
			if _, err := answers(reply, [2]byte{reply[0], reply[1]}, q); err != nil {
				t.Errorf("our reply: %v", err)
			}
		}
	})
}
