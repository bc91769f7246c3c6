package nic

import (
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/jsimonetti/rtnetlink/v2"
	"golang.org/x/sys/unix"

	"banger/personas/guest/link"
)

// inNamespace runs fn in a network namespace that ends with the test.
func inNamespace(t *testing.T, fn func()) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root to make a network namespace")
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		// The thread is in another namespace from here on, and is never used again.
		runtime.LockOSThread()
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			t.Errorf("unshare: %v", err)
			return
		}
		fn()
	}()
	<-done
}

// addPair makes a pair of interfaces and returns the address of its first.
func addPair(t *testing.T) net.HardwareAddr {
	t.Helper()
	if out, err := exec.Command("ip", "link", "add", "eth0", "type", "veth", "peer", "name", "eth1").CombinedOutput(); err != nil {
		t.Skipf("needs ip and veth: %v: %s", err, out)
	}
	l, err := net.InterfaceByName("eth0")
	if err != nil {
		t.Fatal(err)
	}
	return l.HardwareAddr
}

func TestUp(t *testing.T) {
	inNamespace(t, func() {
		mac := addPair(t)
		n := &link.Network{
			MAC: strings.ToUpper(mac.String()), MTU: 1400, Gateway: netip.MustParseAddr("10.83.0.1"),
			Addresses: []netip.Prefix{netip.MustParsePrefix("10.83.0.3/16"), netip.MustParsePrefix("fd00::3/64")},
		}
		for range 2 { // and again, which is no error
			name, err := Up(n)
			if err != nil || name != "eth0" {
				t.Errorf("up: %q, %v", name, err)
			}
		}
		l, err := net.InterfaceByName("eth0")
		if err != nil {
			t.Error(err)
			return
		}
		if l.MTU != 1400 || l.Flags&net.FlagUp == 0 {
			t.Errorf("interface is %+v", l)
		}
		addrs, _ := l.Addrs()
		var have []string
		for _, a := range addrs {
			have = append(have, a.String())
		}
		for _, want := range []string{"10.83.0.3/16", "fd00::3/64"} {
			if !slices.Contains(have, want) {
				t.Errorf("no %s in %s", want, have)
			}
		}
		if lo, err := net.InterfaceByName("lo"); err != nil || lo.Flags&net.FlagUp == 0 {
			t.Errorf("loopback is %+v, %v", lo, err)
		}
		if !hasDefaultRoute(t, net.ParseIP("10.83.0.1")) {
			t.Error("no default route")
		}
	})
}

func hasDefaultRoute(t *testing.T, gateway net.IP) bool {
	conn, err := rtnetlink.Dial(nil)
	if err != nil {
		t.Error(err)
		return false
	}
	defer conn.Close()
	routes, err := conn.Route.List()
	if err != nil {
		t.Error(err)
	}
	return slices.ContainsFunc(routes, func(r rtnetlink.RouteMessage) bool {
		return r.DstLength == 0 && r.Attributes.Gateway.Equal(gateway)
	})
}

func TestUpWithoutInterface(t *testing.T) {
	inNamespace(t, func() {
		if name, err := Up(nil); err != nil || name != "" {
			t.Errorf("loopback alone: %q, %v", name, err)
		}
		if _, err := Up(&link.Network{}); err == nil {
			t.Error("an interface that is not there")
		}
		addPair(t)
		if _, err := Up(&link.Network{MAC: "06:00:00:00:00:01"}); err == nil {
			t.Error("another interface was taken")
		}
	})
}

func TestBroadcast(t *testing.T) {
	for in, want := range map[string]string{
		"10.83.0.3/16": "10.83.255.255", "192.168.1.130/25": "192.168.1.255", "10.0.0.1/31": "<nil>", "10.0.0.1/32": "<nil>",
	} {
		if got := broadcast(netip.MustParsePrefix(in)); got.String() != want {
			t.Errorf("%s: got %s, want %s", in, got, want)
		}
	}
}
