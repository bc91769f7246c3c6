package netns

import (
	"errors"
	"io/fs"
	"slices"
	"testing"
	"time"

	"banger/netns/rtnl"

	"github.com/google/go-cmp/cmp"
	"github.com/google/nftables"
	"golang.org/x/sys/unix"
)

func tapLink(t *testing.T, n *Namespace, slot int) rtnl.Link {
	t.Helper()
	l, err := n.rt.Link(tapName(slot))
	must(t, err)
	return l
}

func TestTapLife(t *testing.T) {
	_, cfg := newHost(t)
	n := ensure(t, cfg)
	before := inventory(t, cfg)
	want := Tap{Slot: 7, UID: 4242, VMID: "web", Policy: Full}
	must(t, n.CreateTap(t.Context(), want))

	l := tapLink(t, n, 7)
	if l.Alias != "banger:web" || l.Master != n.bridge || l.Group != tapGroup || !l.Up || l.MTU != n.MTU() {
		t.Errorf("link %+v", l)
	}
	if l.Tun == nil || *l.Tun != (rtnl.Tun{Owner: 4242, Tap: true, VnetHdr: true, Persist: true}) {
		t.Errorf("device %+v", l.Tun)
	}
	taps, err := n.Taps(t.Context())
	must(t, err)
	if diff := cmp.Diff([]Tap{want}, taps); diff != "" {
		t.Errorf("Taps (-want +got):\n%s", diff)
	}

	must(t, n.RemoveTap(t.Context(), 7))
	if _, err := n.rt.Link(tapName(7)); !errors.Is(err, unix.ENODEV) {
		t.Errorf("removed tap: %v", err)
	}
	must(t, n.RemoveTap(t.Context(), 7)) // removing what is gone
	must(t, n.RemoveTap(t.Context(), 8)) // what never was
	if diff := cmp.Diff(before, inventory(t, cfg)); diff != "" {
		t.Errorf("removal left (-before +after):\n%s", diff)
	}
}

func TestCreateTapAgain(t *testing.T) {
	_, cfg := newHost(t)
	n := ensure(t, cfg)
	tap := Tap{Slot: 1, UID: 4242, VMID: "web", Policy: Internet}
	bare := func(kind uint16, owner int) func(*testing.T) {
		return func(t *testing.T) {
			must(t, n.RemoveTap(t.Context(), 1))
			must(t, n.inner.do(func() error {
				fd, err := unix.Open("/dev/net/tun", unix.O_RDWR, 0)
				if err != nil {
					return err
				}
				defer unix.Close(fd)
				req, _ := unix.NewIfreq(tapName(1))
				req.SetUint16(kind)
				return errors.Join(unix.IoctlIfreq(fd, unix.TUNSETIFF, req),
					unix.IoctlSetInt(fd, unix.TUNSETOWNER, owner), unix.IoctlSetInt(fd, unix.TUNSETPERSIST, 1))
			}))
		}
	}
	tests := []struct {
		name  string
		spoil func(t *testing.T)
		kept  bool // the device itself is kept
	}{
		{"nothing spoilt", func(*testing.T) {}, true},
		{"down", func(t *testing.T) { must(t, n.rt.SetLink(tapLink(t, n, 1).Index, rtnl.Down)) }, true},
		{"taken off the bridge", func(t *testing.T) { must(t, n.rt.SetLink(tapLink(t, n, 1).Index, rtnl.Master(0))) }, true},
		{"filter gone", func(t *testing.T) {
			c, err := n.nft()
			must(t, err)
			n.eraseFilter(c, 1)
			must(t, c.Flush())
		}, true},
		{"another VM's", func(t *testing.T) {
			must(t, n.CreateTap(t.Context(), Tap{Slot: 1, UID: 4242, VMID: "old", Policy: Full}))
		}, false},
		{"another owner", func(t *testing.T) {
			must(t, n.CreateTap(t.Context(), Tap{Slot: 1, UID: 1, VMID: "web", Policy: Full}))
		}, false},
		{"a bare device of a maker that died", bare(tapFlags, 4242), false},
		{"a device without header", bare(unix.IFF_TAP|unix.IFF_NO_PI, 4242), false},
		{"a device of another kind", bare(unix.IFF_TUN, 4242), false},
	}
	must(t, n.CreateTap(t.Context(), tap))
	whole := inventory(t, cfg)
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			must(t, n.CreateTap(t.Context(), tap))
			tt.spoil(t)
			before := tapLink(t, n, 1).Index
			must(t, n.CreateTap(t.Context(), tap))
			after := tapLink(t, n, 1)
			if (before == after.Index) != tt.kept {
				t.Errorf("kept %v, want %v", before == after.Index, tt.kept)
			}
			if !after.Up || after.Master != n.bridge || after.Tun.Owner != 4242 {
				t.Errorf("not whole: %+v", after)
			}
			if diff := cmp.Diff(whole, inventory(t, cfg)); diff != "" {
				t.Errorf("not whole (-want +got):\n%s", diff)
			}
		})
	}
}

func TestTapRefusesBadInput(t *testing.T) {
	_, cfg := newHost(t)
	n := ensure(t, cfg)
	before := inventory(t, cfg)
	for _, tap := range []Tap{
		{Slot: -1, VMID: "a"}, {Slot: Slots, VMID: "a"},
		{VMID: ""}, {VMID: "a b"}, {VMID: "../a"}, {VMID: "-a"}, {VMID: "a\n"}, {VMID: "A"},
		{VMID: "a", Policy: -1}, {VMID: "a", Policy: Full + 1},
	} {
		if err := n.CreateTap(t.Context(), tap); err == nil {
			t.Errorf("%+v was accepted", tap)
		}
	}
	if err := n.RemoveTap(t.Context(), -1); err == nil {
		t.Error("slot -1 was removed")
	}
	if err := n.setPolicy(t.Context(), Slots, Full); err == nil {
		t.Error("slot out of range got a policy")
	}
	if diff := cmp.Diff(before, inventory(t, cfg)); diff != "" {
		t.Errorf("refusals changed (-before +after):\n%s", diff)
	}
}

func TestTapLeavesForeignLinkAlone(t *testing.T) {
	_, cfg := newHost(t)
	n := ensure(t, cfg)
	must(t, n.rt.CreateLink(rtnl.Name(tapName(2)), rtnl.Bridge()))
	if err := n.CreateTap(t.Context(), Tap{Slot: 2, VMID: "a"}); !errors.Is(err, ErrForeign) {
		t.Errorf("create: %v", err)
	}
	if err := n.RemoveTap(t.Context(), 2); !errors.Is(err, ErrForeign) {
		t.Errorf("remove: %v", err)
	}
	tapLink(t, n, 2)
}

func TestRemoveUnderARunningVMM(t *testing.T) {
	_, cfg := newHost(t)
	n := ensure(t, cfg)
	must(t, n.CreateTap(t.Context(), Tap{Slot: 0, VMID: "a", Policy: Full}))
	tap := attach(t, n.inner, tapName(0))
	must(t, n.Remove(t.Context()))
	if links, err := n.rt.Links(); err != nil || len(links) != 1 || links[0].Name != "lo" {
		t.Errorf("links left for the VMM: %+v, %v", links, err)
	}
	if _, err := tap.Write(make([]byte, 100)); err == nil {
		t.Error("the VMM can still send")
	}
}

// TestTapBelongsToItsUser attaches as another user than the owner.
func TestTapBelongsToItsUser(t *testing.T) {
	_, cfg := newHost(t)
	n := ensure(t, cfg)
	must(t, n.CreateTap(t.Context(), Tap{Slot: 0, UID: 4242, VMID: "a"}))
	attachAs := func(uid int) error {
		return n.inner.do(func() error {
			fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC, 0)
			if err != nil {
				return err
			}
			defer unix.Close(fd)
			// The raw call changes this thread only; it goes back below.
			if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, ^uintptr(0), uintptr(uid), ^uintptr(0)); errno != 0 {
				return errno
			}
			defer unix.RawSyscall(unix.SYS_SETRESUID, ^uintptr(0), 0, ^uintptr(0))
			req, _ := unix.NewIfreq(tapName(0))
			req.SetUint16(tapFlags)
			return unix.IoctlIfreq(fd, unix.TUNSETIFF, req)
		})
	}
	if err := attachAs(4243); !errors.Is(err, fs.ErrPermission) {
		t.Errorf("another user: %v, want fs.ErrPermission", err)
	}
	must(t, attachAs(4242))
}

// TestHundredthTapCostsWhatTheFirstDid allows for a busy machine: what it is
// there to find is a dump of all links, or a walk over all rules, on each call.
func TestHundredthTapCostsWhatTheFirstDid(t *testing.T) {
	_, cfg := newHost(t)
	n := ensure(t, cfg)
	var took []time.Duration
	for slot := range 100 {
		start := time.Now()
		must(t, n.CreateTap(t.Context(), Tap{Slot: slot, VMID: "a", Policy: Internet}))
		took = append(took, time.Since(start))
	}
	// The fastest of each: what else the machine does only makes them slower.
	first, last := slices.Min(took[:15]), slices.Min(took[85:])
	t.Logf("first 15 taps %v, last 15 %v at best", first, last)
	if last > 2*first+5*time.Millisecond {
		t.Errorf("the last taps took %v at best, the first %v", last, first)
	}
	start := time.Now()
	must(t, n.Remove(t.Context()))
	t.Logf("removed with 100 taps in %v", time.Since(start))
	if left, err := n.rt.Links(); err != nil || len(left) != 1 {
		t.Errorf("links left: %+v, %v", left, err)
	}
}

// TestTransactionFails: one that the kernel refuses changes nothing, and leaves
// nothing behind that the next one could meet.
func TestTransactionFails(t *testing.T) {
	_, cfg := newHost(t)
	n := ensure(t, cfg)
	for range 2 {
		must(t, n.setPolicy(t.Context(), 3, Full))
		err := n.transact(func(c *nftables.Conn) error {
			if err := n.writePolicy(c, 3, None); err != nil {
				return err
			}
			c.DelTable(&nftables.Table{Name: "nobody's", Family: nftables.TableFamilyINet})
			c.DelTable(&nftables.Table{Name: "nor this", Family: nftables.TableFamilyINet})
			return nil
		})
		if !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("delete a table that is not there: %v", err)
		}
	}
	policies, err := n.policies()
	must(t, err)
	if got := policies[n.plan.Guest(3)]; got != Full || len(policies) != 1 {
		t.Errorf("policies are %v", policies)
	}
}

// TestRemoveTapDoesNotWait: a removal is over when the device is out of sight,
// not when the kernel has waited for the last packet that may be in it, or may
// meet its filter.
func TestRemoveTapDoesNotWait(t *testing.T) {
	_, cfg := newHost(t)
	n := ensure(t, cfg)
	tap := Tap{Slot: 3, VMID: "web", Policy: Internet}
	took := func(remove func() error) time.Duration {
		var times []time.Duration
		for range 9 {
			must(t, n.CreateTap(t.Context(), tap)) // its name is free at once
			begin := time.Now()
			must(t, remove())
			times = append(times, time.Since(begin))
		}
		return slices.Min(times)
	}
	kernel := took(func() error { return n.rt.DeleteLink(tapLink(t, n, 3).Index) })
	ours := took(func() error { return n.RemoveTap(t.Context(), 3) })
	t.Logf("the kernel takes %v for a device, a removal takes %v", kernel, ours)
	if kernel < 8*time.Millisecond {
		t.Skip("this kernel does not wait long")
	}
	if ours > kernel/2 {
		t.Errorf("a removal takes %v, and the kernel alone %v", ours, kernel)
	}
}
