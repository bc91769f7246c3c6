package main_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"

	"golang.org/x/net/dns/dnsmessage"

	"banger/testdata/host"
)

// curl is a program for guests that have none: it prints what a TCP server at
// ADDRESS PORT says, and gives up after so many SECONDS.
const curl = `timeout "$2" bash -c 'exec 3<>/dev/tcp/$0/$1 && cat <&3' "$0" "$1"`

// The seconds of a curl: with an answer it ends at once.
const (
	curlAnswered   = "20"
	curlUnanswered = "2"
)

// curlSeconds are those of a curl that is to be answered, or not.
func curlSeconds(answered bool) string {
	if answered {
		return curlAnswered
	}
	return curlUnanswered
}

// serveHello answers every connection with "hello" and who asks.
func serveHello(ln net.Listener) {
	for {
		conn, err := ln.Accept()
		if err != nil {
			return
		}
		from, _, _ := net.SplitHostPort(conn.RemoteAddr().String())
		io.WriteString(conn, "hello "+from)
		conn.Close()
	}
}

func TestGuestReachesTheInternet(t *testing.T) {
	h := bootHost(t)
	for _, address := range []string{host.Server, host.PrivateServer} {
		go serveHello(h.Listen("tcp", address+":80"))
	}
	// A service of the host itself, on every address that it has.
	service := h.Cmd(t.Context(), host.Root, "perl", "-MSocket", "-e", `
		socket(S, PF_INET, SOCK_STREAM, 0) and setsockopt(S, SOL_SOCKET, SO_REUSEADDR, 1);
		bind(S, sockaddr_in(8080, INADDR_ANY)) and listen(S, 8) or die $!;
		while (accept(C, S)) { syswrite C, "host service"; close C }`)
	if err := service.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { service.Process.Kill(); service.Wait() }()
	waitFor(t, "the host's service", func() bool {
		return h.Run(host.Root, "bash", "-c", curl, "127.0.0.1", "8080", curlAnswered).Stdout == "host service"
	})

	for _, c := range []struct {
		net     string
		public  bool
		private bool
	}{
		{"internet", true, false},
		{"full", true, true},
		{"none", false, false},
	} {
		t.Run("net "+c.net, func(t *testing.T) {
			h.Must(host.Root, "banger", "vm", "run", "-d", "--name", "web", "--net", c.net)
			ask := func(address, port string, answered bool) string {
				return h.Run(host.Root, "banger", "vm", "exec", "web", "--", "bash", "-c", curl, address, port, curlSeconds(answered)).Stdout
			}
			hello := "hello " + host.Address // masqueraded: the guest's own address is nobody's business
			if got := ask(host.Server, "80", c.public); (got == hello) != c.public {
				t.Errorf("public server says %q", got)
			}
			hello = "hello " + host.PrivateAddress
			if got := ask(host.PrivateServer, "80", c.private); (got == hello) != c.private {
				t.Errorf("private server says %q", got)
			}
			for _, address := range []string{host.Address, host.PrivateAddress, gateway(t, h)} {
				if got := ask(address, "8080", false); got != "" {
					t.Errorf("the host's service is reached at %s", address)
				}
			}
			h.Must(host.Root, "banger", "vm", "delete", "--force", "web")
		})
	}
	if got := h.Must(host.Root, "sysctl", "-n", "net.ipv4.ip_forward"); got != "1" {
		t.Errorf("ip_forward is %s while VMs may run", got)
	}
}

// gateway returns the address on which guests see the host.
func gateway(t *testing.T, h *host.Host) string {
	t.Helper()
	out := h.Must(host.Root, "ip", "-n", "banger", "-4", "-o", "addr", "show", "br0")
	for _, field := range strings.Fields(out) {
		if address, _, ok := strings.Cut(field, "/"); ok {
			return address
		}
	}
	t.Fatalf("no address on br0: %s", out)
	return ""
}

func TestNames(t *testing.T) {
	h := bootHost(t)
	serveNames(t, h.ListenPacket("udp", host.Server+":53"), map[string]string{"server.example.": host.Server})
	h.Must(host.Root, "banger", "vm", "run", "-d", "--name", "web")
	h.Must(host.Root, "banger", "vm", "run", "-d", "--name", "db")
	ask := func(name string) string {
		r := h.Run(host.Root, "banger", "vm", "exec", "web", "--", "getent", "ahostsv4", name)
		address, _, _ := strings.Cut(r.Stdout, " ")
		return address
	}
	if got := ask("server.example"); got != host.Server {
		t.Errorf("server.example is %q, want %s", got, host.Server)
	}
	if got, want := ask("db.vm"), showVM(t, h, "db").Address; got != want {
		t.Errorf("db.vm is %q, want %s", got, want)
	}
	for _, name := range []string{"nobody.vm", "nobody.example"} {
		if got := ask(name); got != "" {
			t.Errorf("%s is %q, want nothing", name, got)
		}
	}
	if got, want := ask("web"), showVM(t, h, "web").Address; got != want && !strings.HasPrefix(got, "127.") {
		t.Errorf("the guest's own name is %q, want %s", got, want)
	}
	h.Must(host.Root, "banger", "vm", "delete", "--force", "web", "db")
	waitFor(t, "the name to be gone", func() bool { return len(h.Must(host.Root, "banger", "vm", "list", "--quiet")) == 0 })
}

// serveNames answers questions for addresses like a resolver of the internet.
func serveNames(t *testing.T, pc net.PacketConn, names map[string]string) {
	t.Helper()
	go func() {
		buf := make([]byte, 4096)
		for {
			n, from, err := pc.ReadFrom(buf)
			if err != nil {
				return
			}
			var m dnsmessage.Message
			if m.Unpack(buf[:n]) != nil || len(m.Questions) != 1 {
				continue
			}
			q := m.Questions[0]
			m.Response, m.RecursionAvailable, m.Additionals = true, true, nil
			address, known := names[q.Name.String()]
			switch {
			case !known:
				m.RCode = dnsmessage.RCodeNameError
			case q.Type == dnsmessage.TypeA:
				m.Answers = []dnsmessage.Resource{{
					Header: dnsmessage.ResourceHeader{Name: q.Name, Type: q.Type, Class: q.Class, TTL: 60},
					Body:   &dnsmessage.AResource{A: [4]byte(net.ParseIP(address).To4())},
				}}
			}
			if answer, err := m.Pack(); err == nil {
				pc.WriteTo(answer, from)
			}
		}
	}()
}

// TestGuestCannotLie sends what a guest that was taken over would: frames with
// addresses that are not its own, and frames for another guest.
func TestGuestCannotLie(t *testing.T) {
	h := bootHost(t)
	const port = 9999
	heard := hear(h.ListenPacket("udp", fmt.Sprintf("%s:%d", host.Server, port)))
	for _, name := range []string{"liar", "peer"} {
		h.Must(host.Root, "banger", "vm", "run", "-d", "--name", name, "--net", "full")
	}
	liar, peer := showVM(t, h, "liar"), showVM(t, h, "peer")

	// The peer listens, and hears the gateway's answer to its own question:
	// proof that it would hear more. What the gateway says last ends it.
	listen, err := os.ReadFile("testdata/guest/listen.pl")
	if err != nil {
		t.Fatal(err)
	}
	out := &said{word: "ready", when: make(chan struct{})}
	listener := h.Cmd(t.Context(), host.Root, "banger", "vm", "exec", "-i", "peer", "--", "perl", "-", "200", "that-is-all")
	listener.Stdin, listener.Stdout, listener.Stderr = bytes.NewReader(listen), out, out
	if err := listener.Start(); err != nil {
		t.Fatal(err)
	}
	out.await(t, "the peer's listener")
	gw := gateway(t, h)
	gatewayMAC := h.Must(host.Root, "ip", "netns", "exec", "banger", "cat", "/sys/class/net/br0/address")
	h.Run(host.Root, "banger", "vm", "exec", "peer", "--", "bash", "-c", curl, gw, "1", curlUnanswered)
	waitFor(t, "the gateway's answer to the peer", func() bool { return strings.Contains(out.String(), gatewayMAC+" ") })

	lie, err := os.ReadFile("testdata/guest/frame.pl")
	if err != nil {
		t.Fatal(err)
	}
	if r := h.Input(host.Root, string(lie), "banger", "vm", "exec", "-i", "liar", "--", "perl", "-",
		host.Server, fmt.Sprint(port), gatewayMAC, peer.Address, peer.MAC); r.Code != 0 {
		t.Fatalf("send frames: %v", r)
	}
	r := h.Run(host.Root, "banger", "vm", "exec", "liar", "--", "bash", "-c", curl, peer.Address, "22", curlUnanswered)
	if r.Stdout != "" {
		t.Errorf("liar reaches peer: %v", r)
	}
	// Frames of one guest keep their order: with the last one all have come as far as they do.
	waitFor(t, "the last frame", func() bool { return slices.Contains(heard(), "last") })
	if got := heard(); !slices.Equal(got, []string{"honest", "last"}) {
		t.Errorf("the server heard %v, want only what is honest", got)
	}
	for line := range strings.Lines(h.Must(host.Root, "ip", "-n", "banger", "neigh", "show", "dev", "br0")) {
		if strings.HasPrefix(line, peer.Address+" ") && strings.Contains(line, liar.MAC) || strings.Contains(line, "de:ad:be:ef") {
			t.Errorf("the gateway believes %s", line)
		}
	}

	h.Must(host.Root, "bash", "-c", "echo that-is-all >/dev/udp/$0/9", peer.Address) // by the gateway
	if code := waitCode(t, listener); code != 0 {
		t.Errorf("the peer's listener ends with %d:\n%s", code, out)
	}
	for _, what := range []string{liar.MAC, "06:00:de:ad:be:ef", "to-peer", "to-all"} {
		if strings.Contains(out.String(), what) {
			t.Errorf("the peer heard %s:\n%s", what, out)
		}
	}
	h.Must(host.Root, "banger", "vm", "delete", "--force", "liar", "peer")
}

// hear collects the words that arrive; the returned function tells them.
func hear(pc net.PacketConn) func() []string {
	var mu sync.Mutex
	var words []string
	go func() {
		buf := make([]byte, 2048)
		for {
			n, _, err := pc.ReadFrom(buf)
			if err != nil {
				return
			}
			mu.Lock()
			words = append(words, string(buf[:n]))
			mu.Unlock()
		}
	}()
	return func() []string {
		mu.Lock()
		defer mu.Unlock()
		return slices.Clone(words)
	}
}

// TestFlushedRulesOpenNothing: what separates guests is not in the host's
// rule set, so that nobody can flush it there.
func TestFlushedRulesOpenNothing(t *testing.T) {
	h := bootHost(t)
	h.Must(host.Root, "banger", "vm", "run", "-d", "--name", "a")
	h.Must(host.Root, "banger", "vm", "run", "-d", "--name", "b")
	h.Must(host.Root, "nft", "flush", "ruleset")
	listen := h.Cmd(t.Context(), host.Root, "banger", "vm", "exec", "b", "--", "perl", "-MSocket", "-e", `
		socket(S, PF_INET, SOCK_STREAM, 0); bind(S, sockaddr_in(80, INADDR_ANY)) and listen(S, 8) or die $!;
		$| = 1; print "ready\n"; while (accept(C, S)) { syswrite C, "hello"; close C }`)
	out := &said{word: "ready", when: make(chan struct{})}
	listen.Stdout, listen.Stderr = out, out
	if err := listen.Start(); err != nil {
		t.Fatal(err)
	}
	out.await(t, "b's server")
	b := showVM(t, h, "b").Address
	if r := h.Run(host.Root, "banger", "vm", "exec", "b", "--", "bash", "-c", curl, b, "80", curlAnswered); r.Stdout != "hello" {
		t.Errorf("b does not reach itself: %v", r)
	}
	if r := h.Run(host.Root, "banger", "vm", "exec", "a", "--", "bash", "-c", curl, b, "80", curlUnanswered); r.Stdout != "" {
		t.Errorf("a reaches b: %v", r)
	}
	listen.Process.Kill()
	waitCode(t, listen)
	h.Must(host.Root, "banger", "vm", "delete", "--force", "a", "b")
}

// shownVM is what these tests read of `banger vm show --output json`.
type shownVM struct {
	State, Address, MAC, Disk string
	PID                       int
}

func showVM(t *testing.T, h *host.Host, name string) shownVM {
	t.Helper()
	var vm shownVM
	if err := json.Unmarshal([]byte(h.Must(host.Root, "banger", "vm", "show", name, "--output", "json")), &vm); err != nil {
		t.Fatalf("show %s: %v", name, err)
	}
	return vm
}
