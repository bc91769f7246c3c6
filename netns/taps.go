package netns

import (
	"context"
	"fmt"
	"net/netip"
	"strings"

	"github.com/google/nftables"
)

// Taps lists the taps that stand, for a helper that reconciles: what the kernel
// has, whatever was recorded. A device that never got its alias has no VM's id.
func (n *Namespace) Taps(ctx context.Context) ([]Tap, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	links, err := n.rt.Links()
	if err != nil {
		return nil, fmt.Errorf("list taps: %w", edge(err))
	}
	policies, err := n.policies()
	if err != nil {
		return nil, fmt.Errorf("list policies: %w", edge(err))
	}
	var taps []Tap
	for _, l := range links {
		slot, ok := tapSlot(l.Name)
		if !ok || l.Tun == nil || !n.ownsTap(l) {
			continue
		}
		id, _ := strings.CutPrefix(l.Alias, n.alias(""))
		taps = append(taps, Tap{Slot: slot, UID: l.Tun.Owner, VMID: id, Policy: policies[n.plan.Guest(slot)]})
	}
	return taps, nil
}

// policies reads the policy of every address that has one.
func (n *Namespace) policies() (map[netip.Addr]Policy, error) {
	c, err := n.nft()
	if err != nil {
		return nil, err
	}
	all := make(map[netip.Addr]Policy)
	for _, p := range online {
		elements, err := c.GetSetElements(policySet(n.policyTable(), p))
		if err != nil {
			return nil, err
		}
		for _, e := range elements {
			all[elementAddr(e)] = p
		}
	}
	return all, nil
}

func elementAddr(e nftables.SetElement) netip.Addr {
	ip, _ := netip.AddrFromSlice(e.Key)
	return ip
}
