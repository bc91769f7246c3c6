package netns

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/nftables"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// hostTable is all that banger has in the host's nftables.
func (n *Namespace) hostTable() *nftables.Table {
	return &nftables.Table{Name: n.name, Family: nftables.TableFamilyINet}
}

// ensureHostRules writes the host's table anew, in one transaction:
//
//   - what comes from the namespace gets the host's address on its way out;
//   - into the namespace pass only answers to it;
//   - to the host itself pass only answers to what the host opened, and nothing to what
//     it publishes for others, as Docker does: that is a service of the host too,
//     whatever address it is asked at.
//
// It can only forbid: where another table drops what is forwarded, this one
// cannot help. That is for the doctor to tell.
func (n *Namespace) ensureHostRules() error {
	c, err := transaction(n.host)
	if err != nil {
		return err
	}
	t := c.AddTable(n.hostTable())
	c.DelTable(t)
	c.AddTable(t)
	uplink := n.hostLink()

	forward := baseChain(c, t, "forward", nftables.ChainHookForward, nftables.ChainPolicyAccept)
	rule(c, forward, to(uplink), answers(), accept())
	rule(c, forward, to(uplink), drop())
	rule(c, forward, from(uplink), redirected(), drop())

	input := baseChain(c, t, "input", nftables.ChainHookInput, nftables.ChainPolicyAccept)
	rule(c, input, from(uplink), answers(), accept())
	rule(c, input, from(uplink), drop())

	rule(c, natChain(c, t), ipv4(), source(n.plan.UplinkInside()), masquerade())
	if err := c.Flush(); err != nil {
		return fmt.Errorf("write the host's rules: %w", edge(err))
	}
	return nil
}

// RepairHostRules writes the host's rules again if somebody has flushed them, and
// reports whether it had to. It needs the host's namespace, and costs one question
// where all is well.
func (n *Namespace) RepairHostRules(ctx context.Context) (repaired bool, err error) {
	if err := ctx.Err(); err != nil {
		return false, err
	}
	c, err := transaction(n.host)
	if err != nil {
		return false, err
	}
	tables, err := c.ListTablesOfFamily(nftables.TableFamilyINet)
	if err != nil {
		return false, fmt.Errorf("list the host's tables: %w", edge(err))
	}
	for _, t := range tables {
		if t.Name == n.name {
			return false, nil
		}
	}
	return true, n.ensureHostRules()
}

// KeepHostRules waits for somebody to delete tables of the host, and writes the rules of
// the network with the address plan cfg.Prefix again when they are gone, until ctx is
// done. It calls repaired each time. If cfg.Host is nil the host's namespace is that of
// the calling process, and no other right than CAP_NET_ADMIN is needed.
func KeepHostRules(ctx context.Context, cfg Config, repaired func()) error {
	name, err := cfg.name()
	if err != nil {
		return err
	}
	plan, err := NewPlan(cfg.Prefix)
	if err != nil {
		return err
	}
	n := &Namespace{name: name, plan: plan, host: space{cfg.Host}}
	c, err := netlink.Dial(unix.NETLINK_NETFILTER, &netlink.Config{NetNS: n.host.fd()})
	if err != nil {
		return fmt.Errorf("watch the host's rules: %w", err)
	}
	defer c.Close()
	if err := c.JoinGroup(unix.NFNLGRP_NFTABLES); err != nil {
		return fmt.Errorf("watch the host's rules: %w", err)
	}
	defer context.AfterFunc(ctx, func() { c.SetReadDeadline(time.Unix(1, 0)) })()
	for {
		// Before the wait, too: what happened until now was told to nobody.
		did, err := n.RepairHostRules(ctx)
		if err != nil && ctx.Err() == nil {
			return err
		}
		if did {
			repaired()
		}
		if err := awaitDeletion(c); err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return fmt.Errorf("watch the host's rules: %w", err)
		}
	}
}

// awaitDeletion returns when c has told that tables were deleted, or that it has lost
// messages.
func awaitDeletion(c *netlink.Conn) error {
	const deleted = unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_DELTABLE
	for {
		messages, err := c.Receive()
		if errors.Is(err, unix.ENOBUFS) {
			return nil
		}
		if err != nil {
			return err
		}
		for _, m := range messages {
			if m.Header.Type == deleted {
				return nil
			}
		}
	}
}

// removeHostRules deletes the host's table. Adding it first makes it no error if
// it is not there.
func (n *Namespace) removeHostRules() error {
	c, err := transaction(n.host)
	if err != nil {
		return err
	}
	c.AddTable(n.hostTable())
	c.DelTable(n.hostTable())
	if err := c.Flush(); err != nil {
		return fmt.Errorf("remove the host's rules: %w", edge(err))
	}
	return nil
}
