package doctor

import (
	"os"
	"runtime"
	"testing"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// apart makes a network namespace that goes with the test.
func apart(t *testing.T) int {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: makes a network namespace")
	}
	type result struct {
		f   *os.File
		err error
	}
	done := make(chan result)
	go func() {
		runtime.LockOSThread()
		before, err := os.Open("/proc/thread-self/ns/net")
		if err == nil {
			err = unix.Unshare(unix.CLONE_NEWNET)
		}
		if err != nil {
			done <- result{err: err}
			return
		}
		f, err := os.Open("/proc/thread-self/ns/net")
		if unix.Setns(int(before.Fd()), unix.CLONE_NEWNET) == nil {
			runtime.UnlockOSThread()
		}
		before.Close()
		done <- result{f, err}
	}()
	r := <-done
	must(t, r.err)
	t.Cleanup(func() { r.f.Close() })
	return int(r.f.Fd())
}

func iface(key expr.MetaKey, name string) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: key, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: append([]byte(name), 0)},
	}
}

func TestFirewall(t *testing.T) {
	acceptUplink := append(iface(expr.MetaKeyIIFNAME, "banger0"), &expr.Counter{}, &expr.Verdict{Kind: expr.VerdictAccept})
	acceptOther := append(iface(expr.MetaKeyIIFNAME, "docker0"), &expr.Verdict{Kind: expr.VerdictAccept})
	dropUplink := append(iface(expr.MetaKeyIIFNAME, "banger0"), &expr.Verdict{Kind: expr.VerdictDrop})
	drop := []expr.Any{&expr.Counter{}, &expr.Verdict{Kind: expr.VerdictDrop}}
	reject := []expr.Any{&expr.Reject{Type: unix.NFT_REJECT_ICMP_UNREACH, Code: 3}}

	tests := []struct {
		name   string
		family nftables.TableFamily
		table  string
		hook   *nftables.ChainHook
		chain  string
		policy nftables.ChainPolicy
		plain  string // a chain beside it, with the rules in it
		rules  [][]expr.Any
		status Status
		words  string
	}{
		{name: "nothing", status: OK, words: "nothing on the host"},
		{name: "Docker", family: nftables.TableFamilyIPv4, table: "filter", hook: nftables.ChainHookForward, chain: "FORWARD", policy: nftables.ChainPolicyDrop,
			plain: "DOCKER-USER", rules: [][]expr.Any{acceptOther}, status: Warn, words: "iptables -I DOCKER-USER -i banger0 -j ACCEPT"},
		{name: "Docker told", family: nftables.TableFamilyIPv4, table: "filter", hook: nftables.ChainHookForward, chain: "FORWARD", policy: nftables.ChainPolicyDrop,
			plain: "DOCKER-USER", rules: [][]expr.Any{acceptUplink}, status: OK, words: "let through ip filter FORWARD"},
		{name: "a rule that drops does not count", family: nftables.TableFamilyIPv4, table: "filter", hook: nftables.ChainHookForward, chain: "FORWARD", policy: nftables.ChainPolicyDrop,
			plain: "x", rules: [][]expr.Any{dropUplink}, status: Warn, words: "iptables -I FORWARD"},
		{name: "ufw", family: nftables.TableFamilyIPv4, table: "filter", hook: nftables.ChainHookForward, chain: "FORWARD", policy: nftables.ChainPolicyDrop,
			plain: "ufw-before-forward", status: Warn, words: "ufw route allow in on banger0"},
		{name: "firewalld", family: nftables.TableFamilyINet, table: "firewalld", hook: nftables.ChainHookForward, chain: "filter_FORWARD", policy: nftables.ChainPolicyAccept,
			rules: [][]expr.Any{acceptOther, reject}, status: Warn, words: "firewall-cmd --permanent"},
		{name: "someone's own, last rule drops", family: nftables.TableFamilyINet, table: "mine", hook: nftables.ChainHookForward, chain: "fwd", policy: nftables.ChainPolicyAccept,
			rules: [][]expr.Any{drop}, status: Warn, words: "inet mine fwd (its last rule drops) -> run 'nft insert rule inet mine fwd iifname banger0 accept'"},
		{name: "open", family: nftables.TableFamilyINet, table: "mine", hook: nftables.ChainHookForward, chain: "fwd", policy: nftables.ChainPolicyAccept,
			rules: [][]expr.Any{drop, acceptOther}, status: OK, words: "nothing"},
		{name: "input is no matter", family: nftables.TableFamilyINet, table: "mine", hook: nftables.ChainHookInput, chain: "in", policy: nftables.ChainPolicyDrop,
			status: OK, words: "nothing"},
		{name: "IPv6 is no matter", family: nftables.TableFamilyIPv6, table: "filter", hook: nftables.ChainHookForward, chain: "FORWARD", policy: nftables.ChainPolicyDrop,
			status: OK, words: "nothing"},
		{name: "banger's own", family: nftables.TableFamilyINet, table: "banger", hook: nftables.ChainHookForward, chain: "forward", policy: nftables.ChainPolicyDrop,
			status: OK, words: "nothing"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			h := Host{Root: t.TempDir(), Uplink: "banger0", NetNS: apart(t)}
			if tt.table != "" {
				c, err := nftables.New(nftables.WithNetNSFd(h.NetNS))
				must(t, err)
				table := c.AddTable(&nftables.Table{Family: tt.family, Name: tt.table})
				base := c.AddChain(&nftables.Chain{Table: table, Name: tt.chain, Type: nftables.ChainTypeFilter,
					Hooknum: tt.hook, Priority: nftables.ChainPriorityFilter, Policy: &tt.policy})
				if tt.plain != "" {
					base = c.AddChain(&nftables.Chain{Table: table, Name: tt.plain})
				}
				for _, r := range tt.rules {
					c.AddRule(&nftables.Rule{Table: table, Chain: base, Exprs: r})
				}
				must(t, c.Flush())
			}
			expect(t, h.firewall(t.Context()), tt.status, tt.words)
		})
	}
	legacy := Host{Root: plant(t, map[string]string{"proc/net/ip_tables_names": "nat\nfilter\n"}), Uplink: "banger0"}
	expect(t, legacy.firewall(t.Context()), Warn, "iptables-legacy -S FORWARD")
}
