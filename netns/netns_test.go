package netns

import (
	"context"
	"errors"
	"io/fs"
	"net/netip"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"

	"banger/netns/rtnl"

	"github.com/google/go-cmp/cmp"
	"github.com/google/nftables"
	"golang.org/x/sys/unix"
)

func inventory(t *testing.T, cfg Config) []Object {
	t.Helper()
	all, err := Inventory(t.Context(), cfg)
	must(t, err)
	return all
}

func TestEnsureTwiceChangesNothing(t *testing.T) {
	host, cfg := newHost(t)
	join(t, host, "eth0", "192.0.2.2/24", newSpace(t), "eth0", "192.0.2.1/24")
	c := dial(t, host)
	eth0, err := c.Link("eth0")
	must(t, err)
	must(t, c.SetLink(eth0.Index, rtnl.MTU(1400)))
	defaultRoute(t, host, "eth0", "192.0.2.1")
	before := inventory(t, cfg)

	n := ensure(t, cfg)
	must(t, n.CreateTap(t.Context(), Tap{Slot: 3, UID: 1000, VMID: "web", Policy: Internet}))
	first := inventory(t, cfg)
	again, err := Ensure(t.Context(), cfg)
	must(t, err)
	defer again.Close()
	if diff := cmp.Diff(first, inventory(t, cfg)); diff != "" {
		t.Errorf("the second Ensure changed (-first +second):\n%s", diff)
	}
	if again.Plan() != n.Plan() || again.MTU() != 1400 {
		t.Errorf("plan %v, MTU %d; want %v and the host's 1400", again.Plan().Prefix(), again.MTU(), n.Plan().Prefix())
	}

	must(t, again.Remove(t.Context()))
	if diff := cmp.Diff(before, inventory(t, cfg)); diff != "" {
		t.Errorf("removal left (-before +after):\n%s", diff)
	}
	must(t, again.Remove(t.Context())) // removing what is gone
}

// Whoever masquerades by now forwards, too: the host stays a router for him.
func TestRemoveLeavesForwardingToOthers(t *testing.T) {
	host, cfg := newHost(t)
	n := ensure(t, cfg)
	c, err := transaction(host)
	must(t, err)
	other := c.AddTable(&nftables.Table{Name: "nat", Family: nftables.TableFamilyIPv4})
	rule(c, natChain(c, other), masquerade())
	must(t, c.Flush())
	must(t, n.Remove(t.Context()))
	if now, _ := readForwarding(host); now != "1" {
		t.Errorf("forwarding is %s", now)
	}
	if _, err := os.Lstat(n.forwardingRecord()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("its record: %v", err)
	}
}

func TestRemoveRestoresForwarding(t *testing.T) {
	for _, was := range []string{"0", "1"} {
		t.Run("was "+was, func(t *testing.T) {
			host, cfg := newHost(t)
			must(t, writeForwarding(host, was))
			n := ensure(t, cfg)
			if now, _ := readForwarding(host); now != "1" {
				t.Errorf("with the network up: %s, want 1", now)
			}
			// A second process, which does not know how things were, removes it.
			second, err := Ensure(t.Context(), cfg)
			must(t, err)
			defer second.Close()
			must(t, second.Remove(t.Context()))
			if now, _ := readForwarding(host); now != was {
				t.Errorf("after removal: %s, want %s", now, was)
			}
			_ = n
		})
	}
}

func TestEnsureFinishesWhatIsHalfMade(t *testing.T) {
	_, cfg := newHost(t)
	whole, err := Ensure(t.Context(), cfg)
	must(t, err)
	defer func() { whole.Close() }()
	want := inventory(t, cfg)
	damage := map[string]func(t *testing.T){
		"namespace file without a mount": func(t *testing.T) {
			must(t, whole.Remove(t.Context()))
			must(t, os.MkdirAll(Dir, 0o755))
			must(t, os.WriteFile(path("banger"), nil, 0o444))
		},
		"bridge gone":          func(t *testing.T) { must(t, removeLink(whole.rt, bridgeName)) },
		"uplink gone":          func(t *testing.T) { must(t, removeLink(whole.rt, uplinkName)) },
		"host's rules flushed": func(t *testing.T) { must(t, whole.removeHostRules()) },
		"namespace unmounted, its uplink alive": func(t *testing.T) {
			must(t, removeSpace(path("banger")))
		},
		"pair made, not moved": func(t *testing.T) {
			must(t, removeLink(whole.rt, uplinkName))
			must(t, whole.rt.CreateLink(rtnl.Name(uplinkName), rtnl.Veth(whole.hostLink())))
		},
	}
	for name, do := range damage {
		t.Run(name, func(t *testing.T) {
			do(t)
			n, err := Ensure(t.Context(), cfg)
			must(t, err)
			whole.Close()
			whole = n
			if diff := cmp.Diff(want, inventory(t, cfg)); diff != "" {
				t.Errorf("not whole again (-want +got):\n%s", diff)
			}
		})
	}
	must(t, whole.Remove(t.Context()))
}

func TestEnsureLeavesForeignLinkAlone(t *testing.T) {
	host, cfg := newHost(t)
	join(t, host, "banger0", "192.0.2.2/24", newSpace(t), "eth0", "192.0.2.1/24")
	before := inventory(t, cfg)
	n, err := Ensure(t.Context(), cfg)
	if !errors.Is(err, ErrForeign) {
		t.Fatalf("got %v, %v, want ErrForeign", n, err)
	}
	if diff := cmp.Diff(before, inventory(t, cfg)); diff != "" {
		t.Errorf("the failure left (-before +after):\n%s", diff)
	}
	if _, err := dial(t, host).Link("banger0"); err != nil {
		t.Errorf("foreign link: %v", err)
	}
}

func TestEnsureAvoidsTheHostsNetworks(t *testing.T) {
	host, cfg := newHost(t)
	join(t, host, "lan", "10.203.9.1/24", newSpace(t), "eth0", "10.203.9.2/24")
	n := ensure(t, cfg)
	if lan := netip.MustParsePrefix("10.203.9.0/24"); n.Plan().Prefix().Overlaps(lan) {
		t.Errorf("plan %s overlaps %s", n.Plan().Prefix(), lan)
	}
}

func TestEnsureTakesTheConfiguredNetwork(t *testing.T) {
	_, cfg := newHost(t)
	cfg.Prefix = netip.MustParsePrefix("172.22.0.0/16")
	if n := ensure(t, cfg); n.Plan().Gateway().String() != "172.22.0.1" {
		t.Errorf("gateway %s", n.Plan().Gateway())
	}
}

func TestConfigRefusesBadNames(t *testing.T) {
	for _, name := range []string{"../x", "a/b", "A", "-x", "0x", "a\x00", "a b", strings.Repeat("a", 14)} {
		if _, err := Ensure(t.Context(), Config{Name: name}); err == nil {
			t.Errorf("%q was accepted", name)
		}
	}
}

func TestOpenElsewhereIsNotExist(t *testing.T) {
	needRoot(t)
	if _, err := Open(Config{}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %v, want fs.ErrNotExist", err)
	}
}

func TestInventorySeesPlantedLeftovers(t *testing.T) {
	host, cfg := newHost(t)
	before := inventory(t, cfg)
	c := dial(t, host)
	must(t, c.CreateLink(rtnl.Name("innocent"), rtnl.Bridge()))
	l, err := c.Link("innocent")
	must(t, err)
	if diff := cmp.Diff(before, inventory(t, cfg)); diff != "" {
		t.Errorf("a link that is not banger's is listed:\n%s", diff)
	}
	must(t, c.SetLink(l.Index, rtnl.Alias("banger:leftover")))
	if diff := cmp.Diff(before, inventory(t, cfg)); !strings.Contains(diff, "innocent") {
		t.Errorf("the planted link is not seen: %q", diff)
	}
	must(t, c.DeleteLink(l.Index))
	must(t, writeForwarding(host, "1"))
	if diff := cmp.Diff(before, inventory(t, cfg)); !strings.Contains(diff, "ip_forward") {
		t.Errorf("the changed setting is not seen: %q", diff)
	}
}

// TestExecMovesIn goes the way of the helper: Ensure outside, Exec, and then
// Open, CreateTap and Remove inside.
func TestExecMovesIn(t *testing.T) {
	host, cfg := newHost(t)
	before := inventory(t, cfg)
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = []string{"NETNS_TEST_INSIDE=outside"}
	cmd.ExtraFiles = []*os.File{host.f}
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "moved in and out") {
		t.Fatalf("%v: %s", err, out)
	}
	if diff := cmp.Diff(before, inventory(t, cfg)); diff != "" {
		t.Errorf("left (-before +after):\n%s", diff)
	}
}

// insideMain is the process of TestExecMovesIn, before and after its Exec.
func insideMain() int {
	if err := insideSteps(os.Getenv("NETNS_TEST_INSIDE")); err != nil {
		os.Stdout.WriteString(err.Error() + "\n")
		return 1
	}
	return 0
}

func insideSteps(mode string) error {
	if mode == "outside" {
		n, err := Ensure(context.Background(), Config{Host: os.NewFile(3, "host")})
		if err != nil {
			return err
		}
		env := []string{"NETNS_TEST_INSIDE=" + strconv.Itoa(n.HostFD())}
		return n.Exec("/proc/self/exe", []string{"inside"}, env)
	}
	fd, err := strconv.Atoi(mode)
	if err != nil {
		return err
	}
	n, err := Open(Config{Host: os.NewFile(uintptr(fd), "host")})
	if err != nil {
		return err
	}
	defer n.Close()
	if err := n.CreateTap(context.Background(), Tap{VMID: "a", UID: 1000}); err != nil {
		return err
	}
	if err := unix.Access("/sys/class/net", unix.R_OK); err != nil {
		return err
	}
	if err := n.Remove(context.Background()); err != nil {
		return err
	}
	os.Stdout.WriteString("moved in and out\n")
	return nil
}
