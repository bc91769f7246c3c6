package netns

import (
	"errors"
	"fmt"

	"github.com/google/nftables"
)

// transact does one transaction in the namespace, of what fill adds to it. Its
// connection is kept for the next one: where something was deleted, the kernel lets
// whoever closes a connection wait until no packet meets it any more, some 12 ms.
func (n *Namespace) transact(fill func(*nftables.Conn) error) error {
	n.nftMu.Lock()
	defer n.nftMu.Unlock()
	c := n.kept
	n.kept = nil
	if c == nil {
		var err error
		if c, err = nftables.New(nftables.WithNetNSFd(n.inner.fd()), nftables.AsLasting()); err != nil {
			return fmt.Errorf("open nftables: %w", edge(err))
		}
	}
	err := fill(c)
	if err == nil {
		err = edge(c.Flush())
	}
	if err != nil { // the answers to the rest of it may be yet to come
		return errors.Join(err, c.CloseLasting())
	}
	n.kept = c
	return nil
}

// forgetNFT closes the connection that transact has kept.
func (n *Namespace) forgetNFT() error {
	n.nftMu.Lock()
	defer n.nftMu.Unlock()
	if n.kept == nil {
		return nil
	}
	err := n.kept.CloseLasting()
	n.kept = nil
	return err
}

// nft begins a transaction in the namespace, or asks questions. Each has a
// connection of its own, which Flush opens and closes: a connection that is shared
// would mix the transactions of two callers.
func (n *Namespace) nft() (*nftables.Conn, error) { return transaction(n.inner) }

func transaction(s space) (*nftables.Conn, error) {
	c, err := nftables.New(nftables.WithNetNSFd(s.fd()))
	if err != nil {
		return nil, fmt.Errorf("open nftables: %w", edge(err))
	}
	return c, nil
}

// baseChain makes, or empties, a chain through which the kernel sends packets.
func baseChain(c *nftables.Conn, t *nftables.Table, name string, hook *nftables.ChainHook, policy nftables.ChainPolicy) *nftables.Chain {
	return emptied(c, &nftables.Chain{
		Table: t, Name: name, Type: nftables.ChainTypeFilter,
		Hooknum: hook, Priority: nftables.ChainPriorityFilter, Policy: &policy,
	})
}

// natChain makes, or empties, the chain that changes the source of packets.
func natChain(c *nftables.Conn, t *nftables.Table) *nftables.Chain {
	return emptied(c, &nftables.Chain{
		Table: t, Name: "postrouting", Type: nftables.ChainTypeNAT,
		Hooknum: nftables.ChainHookPostrouting, Priority: nftables.ChainPriorityNATSource,
	})
}

// plainChain makes, or empties, a chain that rules jump to.
func plainChain(c *nftables.Conn, t *nftables.Table, name string) *nftables.Chain {
	return emptied(c, &nftables.Chain{Table: t, Name: name})
}

func emptied(c *nftables.Conn, chain *nftables.Chain) *nftables.Chain {
	c.AddChain(chain)
	c.FlushChain(chain)
	return chain
}
