package netns

import (
	"context"
	"fmt"

	"github.com/google/nftables"
)

// hostTable is all that banger has in the host's nftables.
func (n *Namespace) hostTable() *nftables.Table {
	return &nftables.Table{Name: n.name, Family: nftables.TableFamilyINet}
}

// ensureHostRules writes the host's table anew, in one transaction:
//
//   - what comes from the namespace gets the host's address on its way out;
//   - into the namespace pass only answers to it;
//   - to the host itself pass only answers to what the host opened.
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

	input := baseChain(c, t, "input", nftables.ChainHookInput, nftables.ChainPolicyAccept)
	rule(c, input, from(uplink), answers(), accept())
	rule(c, input, from(uplink), drop())

	rule(c, natChain(c, t), ipv4(), source(n.plan.UplinkInside()), masquerade())
	if err := c.Flush(); err != nil {
		return fmt.Errorf("write the host's rules: %w", edge(err))
	}
	return nil
}

// RepairHostRules writes the host's rules again if somebody has flushed them. It
// needs the host's namespace, and costs one question where all is well.
func (n *Namespace) RepairHostRules(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	c, err := transaction(n.host)
	if err != nil {
		return err
	}
	tables, err := c.ListTablesOfFamily(nftables.TableFamilyINet)
	if err != nil {
		return fmt.Errorf("list the host's tables: %w", edge(err))
	}
	for _, t := range tables {
		if t.Name == n.name {
			return nil
		}
	}
	return n.ensureHostRules()
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
