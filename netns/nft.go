package netns

import (
	"fmt"

	"github.com/google/nftables"
)

// nft begins a transaction in the namespace. Each has a connection of its own,
// which Flush opens and closes: a connection that is shared would mix the
// transactions of two callers.
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
