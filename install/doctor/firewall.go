package doctor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
)

// firewall looks for rules of others that cut guests off. In nftables a packet
// passes only if no table drops it: banger's own table cannot help here, and
// banger never touches those of others.
func (h Host) firewall(context.Context) Result {
	if names, err := h.read("/proc/net/ip_tables_names"); err == nil && strings.Contains(names, "filter") {
		return Result{Warn, "legacy iptables are in use, which cannot be looked at here",
			"if \"iptables-legacy -S FORWARD\" shows a policy of DROP: " + iptablesHint("iptables-legacy", "FORWARD", h.Uplink)}
	}
	walls, err := h.walls()
	switch {
	case errors.Is(err, fs.ErrPermission):
		return Result{Info, "only root can look at the host's firewall", "run \"sudo banger doctor\""}
	case err != nil:
		return Result{Warn, "look at the host's firewall: " + err.Error(), "if guests have no network, look for a rule or policy that drops what is forwarded"}
	}
	var closed, hints, open []string
	for _, w := range walls {
		if w.letsThrough {
			open = append(open, w.String())
			continue
		}
		closed = append(closed, w.String())
		hints = append(hints, w.hint(h.Uplink))
	}
	if len(closed) > 0 {
		return Result{Warn, "guests are cut off by " + strings.Join(closed, " and by "), strings.Join(hints, "; ")}
	}
	if len(open) > 0 {
		return Result{OK, "guests are let through " + strings.Join(open, " and "), ""}
	}
	return Result{OK, "nothing on the host drops what it forwards", ""}
}

// wall is a chain of the host that drops what is forwarded unless told otherwise.
type wall struct {
	chain       *nftables.Chain
	why         string          // "policy drop", or what its last rule does
	others      map[string]bool // the chains of its table
	letsThrough bool            // a rule of its table names the uplink
}

func (w wall) String() string {
	return fmt.Sprintf("%s %s %s (%s)", family(w.chain.Table.Family), w.chain.Table.Name, w.chain.Name, w.why)
}

// hint says what to add, in the words of whoever made the chain.
func (w wall) hint(uplink string) string {
	table := w.chain.Table
	switch {
	case table.Name == "firewalld":
		return fmt.Sprintf("run \"firewall-cmd --permanent --zone=trusted --add-interface=%s && firewall-cmd --reload\"", uplink)
	case w.others["ufw-before-forward"]:
		return fmt.Sprintf("run \"ufw route allow in on %s\"", uplink)
	case w.others["DOCKER-USER"]:
		return iptablesHint("iptables", "DOCKER-USER", uplink)
	case table.Name == "filter" && w.chain.Name == "FORWARD":
		return iptablesHint("iptables", "FORWARD", uplink)
	}
	rule := fmt.Sprintf("nft insert rule %s %s %s", family(table.Family), table.Name, w.chain.Name)
	return fmt.Sprintf("run '%s iifname %s accept' and '%s oifname %s ct state established,related accept'", rule, uplink, rule, uplink)
}

func iptablesHint(program, chain, uplink string) string {
	return fmt.Sprintf("run \"%s -I %s -i %s -j ACCEPT\" and \"%s -I %s -o %s -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\"",
		program, chain, uplink, program, chain, uplink)
}

// walls finds the chains that drop what is forwarded, in the tables of others.
func (h Host) walls() ([]wall, error) {
	conn, err := nftables.New(nftables.WithNetNSFd(h.NetNS))
	if err != nil {
		return nil, err
	}
	chains, err := conn.ListChains()
	if err != nil {
		return nil, err
	}
	var walls []wall
	for _, c := range chains {
		if !forwards(c) || strings.HasPrefix(c.Table.Name, "banger") {
			continue
		}
		why, err := closed(conn, c)
		if err != nil {
			return nil, err
		}
		if why == "" {
			continue
		}
		w := wall{chain: c, why: why, others: make(map[string]bool)}
		for _, other := range chains {
			if other.Table.Name != c.Table.Name || other.Table.Family != c.Table.Family {
				continue
			}
			w.others[other.Name] = true
			named, err := names(conn, other, h.Uplink)
			if err != nil {
				return nil, err
			}
			w.letsThrough = w.letsThrough || named
		}
		walls = append(walls, w)
	}
	return walls, nil
}

// forwards tells whether forwarded IPv4 packets come through a chain.
func forwards(c *nftables.Chain) bool {
	family := c.Table.Family
	return (family == nftables.TableFamilyIPv4 || family == nftables.TableFamilyINet) &&
		c.Hooknum != nil && *c.Hooknum == *nftables.ChainHookForward
}

// closed says why a chain drops what no rule of it accepts, if it does: by its
// policy, or by a last rule without a condition.
func closed(conn *nftables.Conn, c *nftables.Chain) (string, error) {
	if c.Policy != nil && *c.Policy == nftables.ChainPolicyDrop {
		return "policy drop", nil
	}
	rules, err := conn.GetRules(c.Table, c)
	if err != nil || len(rules) == 0 {
		return "", err
	}
	last := rules[len(rules)-1]
	for _, e := range last.Exprs {
		switch e := e.(type) {
		case *expr.Counter, *expr.Log:
		case *expr.Reject:
			return "its last rule rejects", nil
		case *expr.Verdict:
			if e.Kind == expr.VerdictDrop {
				return "its last rule drops", nil
			}
			return "", nil
		default:
			return "", nil
		}
	}
	return "", nil
}

// names tells whether a rule of a chain lets pass what comes from the uplink.
func names(conn *nftables.Conn, c *nftables.Chain, uplink string) (bool, error) {
	rules, err := conn.GetRules(c.Table, c)
	if err != nil {
		return false, err
	}
	for _, r := range rules {
		var from, passes bool
		for i, e := range r.Exprs {
			switch e := e.(type) {
			case *expr.Meta:
				if e.Key == expr.MetaKeyIIFNAME && i+1 < len(r.Exprs) {
					cmp, ok := r.Exprs[i+1].(*expr.Cmp)
					from = ok && cmp.Op == expr.CmpOpEq && strings.TrimRight(string(cmp.Data), "\x00") == uplink
				}
			case *expr.Verdict:
				passes = e.Kind == expr.VerdictAccept || e.Kind == expr.VerdictJump || e.Kind == expr.VerdictGoto
			}
		}
		if from && passes {
			return true, nil
		}
	}
	return false, nil
}

func family(f nftables.TableFamily) string {
	if f == nftables.TableFamilyIPv4 {
		return "ip"
	}
	return "inet"
}
