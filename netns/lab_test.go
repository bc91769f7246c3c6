package netns

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"testing"

	"banger/netns/rtnl"

	"golang.org/x/sys/unix"
)

// TestMain runs the tests in a mount namespace of their own, with an empty /run,
// so that they neither see nor leave a named network namespace of the machine.
func TestMain(m *testing.M) {
	if mode := os.Getenv("NETNS_TEST_INSIDE"); mode != "" {
		os.Exit(insideMain())
	}
	if os.Geteuid() != 0 || os.Getenv("NETNS_TEST_APART") != "" {
		os.Exit(m.Run())
	}
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), "NETNS_TEST_APART=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: unix.CLONE_NEWNS | unix.CLONE_NEWNET}
	if err := cmd.Run(); err != nil {
		var exit *exec.ExitError
		if !errors.As(err, &exit) {
			fmt.Fprintln(os.Stderr, "run tests apart:", err)
		}
		os.Exit(1)
	}
	os.Exit(0)
}

// needRoot skips tests that make namespaces where that is not allowed.
func needRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: makes network namespaces")
	}
	if os.Getenv("NETNS_TEST_RUN") == "" {
		if err := unix.Mount("none", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
			t.Skipf("needs a mount namespace: %v", err)
		}
		if err := unix.Mount("tmpfs", "/run", "tmpfs", 0, "mode=0755"); err != nil {
			t.Skipf("needs to mount: %v", err)
		}
		os.Setenv("NETNS_TEST_RUN", "1")
	}
	if _, err := os.Stat("/dev/net/tun"); err != nil {
		t.Skipf("needs TUN devices: %v", err)
	}
}

// newSpace makes a network namespace that goes with the test.
func newSpace(t testing.TB) space {
	t.Helper()
	var s space
	err := onThread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return err
		}
		var err error
		s, err = currentSpace()
		return err
	})
	must(t, err)
	t.Cleanup(func() { s.close() })
	c := dial(t, s)
	lo, err := c.Link("lo")
	must(t, err)
	must(t, c.SetLink(lo.Index, rtnl.Up))
	return s
}

func dial(t testing.TB, s space) *rtnl.Conn {
	t.Helper()
	c, err := rtnl.Dial(s.fd())
	must(t, err)
	t.Cleanup(func() { c.Close() })
	return c
}

// newHost makes a namespace that stands for a host, with a banger network of
// its own that is gone when the test ends.
func newHost(t testing.TB) (host space, cfg Config) {
	t.Helper()
	needRoot(t)
	host = newSpace(t)
	must(t, writeForwarding(host, "0")) // a new namespace takes over the machine's
	return host, Config{Name: "banger", Host: host.f}
}

func ensure(t testing.TB, cfg Config) *Namespace {
	t.Helper()
	n, err := Ensure(t.Context(), cfg)
	must(t, err)
	t.Cleanup(func() {
		if err := n.Remove(context.Background()); err != nil {
			t.Errorf("clean up: %v", err)
		}
		n.Close()
	})
	return n
}

// join connects two namespaces by a pair of links and gives each end an address.
func join(t testing.TB, a space, aName string, aAddr string, b space, bName string, bAddr string) {
	t.Helper()
	ca, cb := dial(t, a), dial(t, b)
	must(t, ca.CreateLink(rtnl.Name(aName), rtnl.Veth("joining")))
	end, err := ca.Link("joining")
	must(t, err)
	must(t, ca.SetLink(end.Index, rtnl.MoveTo(b.fd())))
	end, err = cb.Link("joining")
	must(t, err)
	must(t, cb.SetLink(end.Index, rtnl.Name(bName)))
	for _, e := range []struct {
		c          *rtnl.Conn
		name, addr string
	}{{ca, aName, aAddr}, {cb, bName, bAddr}} {
		l, err := e.c.Link(e.name)
		must(t, err)
		must(t, e.c.SetLink(l.Index, rtnl.Up, rtnl.NoIPv6Address))
		must(t, e.c.SetAddr(l.Index, netip.MustParsePrefix(e.addr)))
	}
}

// defaultRoute sends everything to a neighbour.
func defaultRoute(t testing.TB, s space, linkName, via string) {
	t.Helper()
	c := dial(t, s)
	l, err := c.Link(linkName)
	must(t, err)
	must(t, c.SetRoute(rtnl.Route{Dst: netip.MustParsePrefix("0.0.0.0/0"), Via: netip.MustParseAddr(via), Index: l.Index}))
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		_, file, line, _ := runtime.Caller(1)
		t.Fatalf("%s:%d: %v", file, line, err)
	}
}
