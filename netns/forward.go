package netns

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
)

// ipForward makes the host a router. Setting it for the uplink alone is not
// enough: answers come in on the host's other links.
const ipForward = "/proc/sys/net/ipv4/ip_forward"

// forwardingRecord is a file that stands while banger is why the host forwards.
// It is made before the change, and lives as long as the change can: both go
// when the host boots. No link or table holds it, for someone may delete these.
func (n *Namespace) forwardingRecord() string { return "/run/" + n.name + "-ip_forward-was-0" }

// ensureForwarding lets the host forward, where it does not.
func (n *Namespace) ensureForwarding() error {
	now, err := readForwarding(n.host)
	if err != nil || now == "1" {
		return err
	}
	f, err := os.OpenFile(n.forwardingRecord(), os.O_WRONLY|os.O_CREATE, 0o600)
	if err != nil {
		return fmt.Errorf("record the host's forwarding: %w", err)
	}
	f.Close()
	return writeForwarding(n.host, "1")
}

// restoreForwarding puts back what ensureForwarding changed, unless somebody has come to
// rely on it.
func (n *Namespace) restoreForwarding() error {
	switch _, err := os.Lstat(n.forwardingRecord()); {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return fmt.Errorf("read the record of the host's forwarding: %w", err)
	}
	others, err := n.othersMasquerade()
	if err != nil {
		return err
	}
	if !others {
		if err := writeForwarding(n.host, "0"); err != nil {
			return err
		}
	}
	return os.Remove(n.forwardingRecord())
}

// othersMasquerade reports whether a rule of the host's that is none of ours gives others
// its address: it is for packets that the host forwards. Rules that cannot be read may be
// such ones. Those of the old iptables are not seen.
func (n *Namespace) othersMasquerade() (bool, error) {
	c, err := transaction(n.host)
	if err != nil {
		return false, err
	}
	chains, err := c.ListChains()
	if err != nil {
		return false, fmt.Errorf("list the host's chains: %w", edge(err))
	}
	ours := n.hostTable()
	for _, chain := range chains {
		if chain.Table.Name == ours.Name && chain.Table.Family == ours.Family {
			continue
		}
		rules, err := c.GetRules(chain.Table, chain)
		if err != nil || slices.ContainsFunc(rules, masquerades) {
			return true, nil
		}
	}
	return false, nil
}

// masquerades knows nftables' own word, and iptables'.
func masquerades(r *nftables.Rule) bool {
	return slices.ContainsFunc(r.Exprs, func(e expr.Any) bool {
		switch e := e.(type) {
		case *expr.Masq:
			return true
		case *expr.NAT:
			return e.Type == expr.NATTypeSourceNAT
		case *expr.Target:
			return e.Name == "MASQUERADE" || e.Name == "SNAT"
		}
		return false
	})
}

func readForwarding(host space) (string, error) {
	var value string
	err := host.do(func() error {
		b, err := os.ReadFile(ipForward)
		value = strings.TrimSpace(string(b))
		return err
	})
	if err != nil {
		return "", fmt.Errorf("read the host's forwarding: %w", err)
	}
	return value, nil
}

func writeForwarding(host space, value string) error {
	err := host.do(func() error { return os.WriteFile(ipForward, []byte(value), 0) })
	if err != nil {
		return fmt.Errorf("set the host's forwarding to %s: %w", value, err)
	}
	return nil
}
