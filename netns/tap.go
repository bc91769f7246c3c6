package netns

import (
	"context"
	"errors"
	"fmt"
	"os"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"time"

	"banger/netns/rtnl"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"
)

// tapGroup is the group of links that all taps are in, to be removed together.
const tapGroup = 0xb4

// tapFlags are those with which Firecracker and QEMU attach to a TAP device.
const tapFlags = unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR

// Tap is the network device of one VM.
type Tap struct {
	// Slot is the VM's place in the address plan, from 0 to Slots-1. Name,
	// addresses and filter follow from it.
	Slot int

	// UID is the user that may attach to the device: the VM's own.
	UID uint32

	// VMID is written on the device.
	VMID string

	// Policy is what the VM may reach.
	Policy Policy
}

var validVMID = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,62}$`) })

func (t Tap) validate() error {
	if !validVMID().MatchString(t.VMID) {
		return fmt.Errorf("tap of VM %q: bad id", t.VMID)
	}
	if t.Policy < None || t.Policy > Full {
		return fmt.Errorf("tap of VM %q: bad %s", t.VMID, t.Policy)
	}
	return checkSlot(t.Slot)
}

func checkSlot(slot int) error {
	if slot < 0 || slot >= Slots {
		return fmt.Errorf("slot %d: not from 0 to %d", slot, Slots-1)
	}
	return nil
}

// Name is the device's name: what the VMM attaches to.
func (t Tap) Name() string { return tapName(t.Slot) }

const tapPrefix = "tap"

func tapName(slot int) string { return tapPrefix + strconv.Itoa(slot) }

// tapSlot is the inverse of tapName.
func tapSlot(name string) (int, bool) {
	digits, ok := strings.CutPrefix(name, tapPrefix)
	slot, err := strconv.Atoi(digits)
	return slot, ok && err == nil && tapName(slot) == name && checkSlot(slot) == nil
}

// CreateTap makes the VM's device, with its filter and its policy, and brings it
// up when all of these hold. A device that stands already is kept if it is this
// VM's and as it should be, and is made anew if it is stale. A failure leaves no
// device.
func (n *Namespace) CreateTap(ctx context.Context, t Tap) (err error) {
	if err := t.validate(); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := n.ensureDevice(t); err != nil {
		return fmt.Errorf("create tap %q: %w", t.Name(), edge(err))
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, n.RemoveTap(context.WithoutCancel(ctx), t.Slot))
		}
	}()
	if err := n.plugTap(t); err != nil {
		return fmt.Errorf("set up tap %q: %w", t.Name(), edge(err))
	}
	return nil
}

// ensureDevice makes the bare device, unless a good one stands.
func (n *Namespace) ensureDevice(t Tap) error {
	l, err := n.rt.Link(t.Name())
	switch {
	case errors.Is(err, unix.ENODEV):
		return n.makeDevice(t)
	case err != nil:
		return err
	case n.fits(l, t):
		return nil
	case !n.ownsTap(l):
		return ErrForeign
	}
	if err := n.deleteTap(l); err != nil {
		return err
	}
	return n.makeDevice(t)
}

// fits tells whether a link is the VM's tap, made as makeDevice makes it.
func (n *Namespace) fits(l rtnl.Link, t Tap) bool {
	return l.Alias == n.alias(t.VMID) && l.Kind == "tun" && l.Tun != nil &&
		*l.Tun == rtnl.Tun{Owner: t.UID, Tap: true, VnetHdr: true, Persist: true}
}

// ownsTap tells whether a link may be removed in a tap's stead: a device that
// never got its alias is one that was being made when its maker died.
func (n *Namespace) ownsTap(l rtnl.Link) bool {
	return l.Kind == "tun" && (l.Alias == "" || strings.HasPrefix(l.Alias, n.name+":"))
}

// makeDevice makes a persistent TAP device owned by the VM's user.
func (n *Namespace) makeDevice(t Tap) error {
	return n.inner.do(func() error {
		f, err := os.OpenFile("/dev/net/tun", os.O_RDWR|unix.O_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer f.Close()
		fd := int(f.Fd())
		req, err := unix.NewIfreq(t.Name())
		if err != nil {
			return err
		}
		// IFF_TUN_EXCL: attaching to what somebody made in between is an error.
		req.SetUint16(tapFlags | unix.IFF_TUN_EXCL)
		if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, req); err != nil {
			return err
		}
		if err := unix.IoctlSetInt(fd, unix.TUNSETOWNER, int(t.UID)); err != nil {
			return err
		}
		return unix.IoctlSetInt(fd, unix.TUNSETPERSIST, 1)
	})
}

// plugTap makes the bare device a port of the bridge. The filter comes first and
// the device comes up last.
func (n *Namespace) plugTap(t Tap) error {
	l, err := n.rt.Link(t.Name())
	if err != nil {
		return err
	}
	mac, ip := n.plan.MAC(t.Slot), n.plan.Guest(t.Slot)
	steps := []func() error{
		func() error {
			return n.rt.SetLink(l.Index, rtnl.Alias(n.alias(t.VMID)), rtnl.Group(tapGroup), rtnl.MTU(n.mtu))
		},
		func() error { return n.applyRules(t) },
		func() error { return quietIPv6(n.rt, l.Index) },
		func() error { return n.rt.SetLink(l.Index, rtnl.Master(n.bridge)) },
		func() error { return n.rt.SetLink(l.Index, rtnl.IsolatedPort, rtnl.Up) },
		func() error { return n.rt.SetFDB(l.Index, mac) },
		func() error { return n.rt.SetNeighbour(rtnl.Neighbour{Index: n.bridge, IP: ip, MAC: mac}) },
	}
	for _, step := range steps {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

// applyRules writes the filter and the policy in one transaction.
func (n *Namespace) applyRules(t Tap) error {
	return n.transact(func(c *nftables.Conn) error {
		n.writeFilter(c, t.Slot)
		return n.writePolicy(c, t.Slot, t.Policy)
	})
}

// RemoveTap removes the device of the VM in a slot, its filter and its policy.
// What passed it is stopped first, and the filter goes last, when there is no
// device that it could leave open. Removing what is gone is success.
func (n *Namespace) RemoveTap(ctx context.Context, slot int) error {
	if err := checkSlot(slot); err != nil {
		return err
	}
	if err := n.setPolicy(ctx, slot, None); err != nil {
		return err
	}
	l, err := n.rt.Link(tapName(slot))
	if err == nil && !n.ownsTap(l) {
		return fmt.Errorf("remove tap %q: %w", tapName(slot), ErrForeign)
	}
	if err == nil {
		err = n.deleteTap(l)
	}
	if err := gone(err); err != nil {
		return fmt.Errorf("remove tap %q: %w", tapName(slot), err)
	}
	if err := gone(n.rt.DeleteNeighbour(n.bridge, n.plan.Guest(slot))); err != nil {
		return fmt.Errorf("remove neighbour of tap %q: %w", tapName(slot), err)
	}
	err = n.transact(func(c *nftables.Conn) error { n.eraseFilter(c, slot); return nil })
	if err != nil {
		return fmt.Errorf("remove filter of tap %q: %w", tapName(slot), err)
	}
	return nil
}

// deleteTap deletes a device and returns when nobody can find it any more, and
// its name is free. The kernel then goes on for some 12 ms, until it is sure that
// no packet is on its way through what was the device: that wait has a connection
// of its own, so that neither the caller nor another VM's tap has to share it.
func (n *Namespace) deleteTap(l rtnl.Link) error {
	c, err := rtnl.Dial(n.inner.fd())
	if err != nil {
		return err
	}
	deleted := make(chan error, 1)
	n.removals.Go(func() {
		defer c.Close()
		deleted <- c.DeleteLink(l.Index)
	})
	// The kernel answers this question only when it is not in the midst of the
	// removal, so that it is seldom asked twice.
	for pause := 50 * time.Microsecond; ; pause *= 2 {
		select {
		case err := <-deleted:
			return gone(err)
		case <-time.After(pause):
		}
		now, err := n.rt.Link(l.Name)
		if errors.Is(err, unix.ENODEV) || err == nil && now.Index != l.Index {
			return nil
		}
	}
}
