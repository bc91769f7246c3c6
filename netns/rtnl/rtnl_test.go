package rtnl

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
)

// apart returns a connection to a network namespace that goes with the test.
func apart(t *testing.T) *Conn {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: makes a network namespace")
	}
	type result struct {
		c   *Conn
		err error
	}
	done := make(chan result)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with its namespace
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			done <- result{err: err}
			return
		}
		c, err := Dial(0)
		done <- result{c, err}
	}()
	r := <-done
	must(t, r.err)
	t.Cleanup(func() { r.c.Close() })
	return r.c
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestLinkLife(t *testing.T) {
	c := apart(t)
	mac := net.HardwareAddr{6, 0, 10, 1, 2, 3}
	must(t, c.CreateLink(Name("br0"), MAC(mac), Bridge()))
	if err := c.CreateLink(Name("br0"), Bridge()); !errors.Is(err, unix.EEXIST) {
		t.Errorf("the same name again: %v, want EEXIST", err)
	}
	br, err := c.Link("br0")
	must(t, err)
	must(t, c.SetLink(br.Index, Alias("a:b"), MTU(1400), Group(7), NoIPv6Address, Up))
	br, err = c.Link("br0")
	must(t, err)
	if br.Kind != "bridge" || br.Alias != "a:b" || br.MTU != 1400 || br.Group != 7 || !br.Up || br.MAC.String() != mac.String() {
		t.Errorf("bridge %+v", br)
	}

	must(t, c.CreateLink(Name("v0"), Veth("v1")))
	v0, err := c.Link("v0")
	must(t, err)
	must(t, c.SetLink(v0.Index, Master(br.Index), Group(7)))
	must(t, c.SetLink(v0.Index, IsolatedPort, Up))
	must(t, c.SetFDB(v0.Index, mac[:6]))
	must(t, c.SetFDB(v0.Index, mac[:6])) // idempotent
	if v0, err = c.Link("v0"); err != nil || v0.Master != br.Index {
		t.Errorf("port %+v, %v", v0, err)
	}

	must(t, c.DeleteGroup(7))
	for _, name := range []string{"br0", "v0", "v1"} {
		if l, err := c.Link(name); !errors.Is(err, unix.ENODEV) {
			t.Errorf("after removal: %+v, %v, want ENODEV", l, err)
		}
	}
	if err := c.DeleteLink(br.Index); !errors.Is(err, unix.ENODEV) {
		t.Errorf("remove missing link: %v, want ENODEV", err)
	}
}

func TestAddressesRoutesNeighbours(t *testing.T) {
	c := apart(t)
	must(t, c.CreateLink(Name("br0"), Bridge()))
	br, err := c.Link("br0")
	must(t, err)
	must(t, c.SetLink(br.Index, Up, IPv4(map[Conf]uint32{Forwarding: 1, RPFilter: 1})))
	own := netip.MustParsePrefix("10.1.2.3/24")
	via := netip.MustParseAddr("10.1.2.1")
	for range 2 { // each is idempotent
		must(t, c.SetAddr(br.Index, own))
		must(t, c.SetRoute(Route{Dst: netip.MustParsePrefix("0.0.0.0/0"), Via: via, Index: br.Index}))
		must(t, c.SetNeighbour(Neighbour{Index: br.Index, IP: via, MAC: net.HardwareAddr{2, 0, 0, 0, 0, 1}}))
	}

	addrs, err := c.Addrs()
	must(t, err)
	if len(addrs) != 1 || addrs[0] != (Addr{br.Index, own}) {
		t.Errorf("addresses %v", addrs)
	}
	routes, err := c.Routes()
	must(t, err)
	var found bool
	for _, r := range routes {
		found = found || r == Route{netip.MustParsePrefix("0.0.0.0/0"), via, br.Index, unix.RT_TABLE_MAIN}
	}
	if !found {
		t.Errorf("no default route in %v", routes)
	}
	all, err := c.Neighbours()
	must(t, err)
	if len(all) != 1 || all[0].IP != via || all[0].MAC.String() != "02:00:00:00:00:01" {
		t.Errorf("neighbours %v", all)
	}
	must(t, c.DeleteNeighbour(br.Index, via))
	if err := c.DeleteNeighbour(br.Index, via); !errors.Is(err, unix.ENOENT) {
		t.Errorf("remove missing neighbour: %v, want ENOENT", err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte{})
	f.Add(make([]byte, 16))
	f.Add(append(linkHeader(3, 1, 0), 8, 0, 18, 0, 4, 0, 2, 0, 5, 0, 3, 0, 'x'))
	f.Add([]byte{2, 99, 0, 0, 254, 3, 0, 1, 0, 0, 0, 0, 8, 0, 1, 0, 10, 0, 0, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		if l, err := parseLink(b); err != nil && l.Name != "" {
			t.Errorf("an error with a link: %+v, %v", l, err)
		}
		if r, err := parseRoute(b); err == nil && !r.Dst.IsValid() {
			t.Errorf("an invalid route: %+v", r)
		}
	})
}
