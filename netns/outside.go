package netns

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"

	"banger/netns/rtnl"
)

// Choose returns the network that Ensure would choose on this host as it is now.
// It changes nothing.
func Choose() (netip.Prefix, error) {
	host, err := rtnl.Dial(0)
	if err != nil {
		return netip.Prefix{}, err
	}
	defer host.Close()
	n := &Namespace{name: "banger"}
	taken, err := n.takenNetworks(host)
	if err != nil {
		return netip.Prefix{}, err
	}
	plan, err := ChoosePlan(taken)
	return plan.Prefix(), err
}

// Find opens the namespace from the host, for Remove. Unlike Ensure it makes
// nothing: it is fs.ErrNotExist when there is none.
func Find(cfg Config) (*Namespace, error) {
	name, err := cfg.name()
	if err != nil {
		return nil, err
	}
	n := &Namespace{name: name}
	if n.inner, err = openSpace(path(name)); err != nil {
		return nil, err
	}
	if n.host, err = hostSpace(cfg.Host); err == nil {
		n.rt, err = rtnl.Dial(n.inner.fd())
	}
	if err == nil {
		// Without a bridge there is no plan, and nothing that depends on one.
		if aerr := n.adopt(); aerr != nil && !errors.Is(aerr, fs.ErrNotExist) {
			err = aerr
		}
	}
	if err == nil {
		err = n.findUplink()
	}
	if err != nil {
		n.Close()
		return nil, fmt.Errorf("find network %q: %w", name, err)
	}
	return n, nil
}

// findUplink notes the index of the host's end, if there is one.
func (n *Namespace) findUplink() error {
	host, err := rtnl.Dial(n.host.fd())
	if err != nil {
		return err
	}
	defer host.Close()
	if l, err := host.Link(n.hostLink()); err == nil && n.ownsUplink(l) {
		n.uplink = l.Index
	}
	return nil
}

// UplinkIndex is the index of the host's end of the uplink; zero when that is not
// known, as inside the namespace.
func (n *Namespace) UplinkIndex() uint32 { return n.uplink }
