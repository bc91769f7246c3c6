package inventory

import (
	"errors"
	"fmt"
	"strings"

	"github.com/google/nftables"
)

// namespaces lists named network namespaces.
func (c *collector) namespaces() error {
	names, err := c.entries("/run/netns")
	if err != nil {
		return err
	}
	for _, name := range names {
		if c.named(name) {
			c.add("netns", name, "/run/netns/"+name)
		}
	}
	return nil
}

// links lists links of this network namespace that bear banger's alias, by
// whatever name, with the users that may attach to tap devices.
func (c *collector) links() error {
	names, err := c.entries("/sys/class/net")
	if err != nil {
		return err
	}
	for _, name := range names {
		alias := c.value("/sys/class/net/" + name + "/ifalias")
		if !strings.HasPrefix(alias, c.Name+":") {
			continue
		}
		detail := "alias=" + alias
		if owner := c.value("/sys/class/net/" + name + "/owner"); owner != "" {
			detail += " owner=" + owner
		}
		c.add("link", name, detail)
	}
	return nil
}

// tables lists the nftables of this network namespace that are banger's. They
// are the kernel's to tell, not a file's: with another root there are none.
func (c *collector) tables() error {
	if c.Root != "/" {
		return nil
	}
	conn, err := nftables.New()
	if err != nil {
		return err
	}
	tables, err := conn.ListTables()
	if err != nil {
		return fmt.Errorf("list tables: %w", bare(err))
	}
	chains, err := conn.ListChains()
	if err != nil {
		return fmt.Errorf("list chains: %w", bare(err))
	}
	for _, t := range tables {
		if !c.named(t.Name) {
			continue
		}
		var names []string
		for _, chain := range chains {
			if chain.Table.Name == t.Name && chain.Table.Family == t.Family {
				names = append(names, chain.Name)
			}
		}
		c.add("table", fmt.Sprintf("%s %s", families[t.Family], t.Name), "chains="+strings.Join(names, ","))
	}
	return nil
}

var families = map[nftables.TableFamily]string{
	nftables.TableFamilyINet: "inet", nftables.TableFamilyNetdev: "netdev",
	nftables.TableFamilyIPv4: "ip", nftables.TableFamilyIPv6: "ip6",
	nftables.TableFamilyARP: "arp", nftables.TableFamilyBridge: "bridge",
}

// bare strips the words of netlink from an error.
func bare(err error) error {
	for inner := errors.Unwrap(err); inner != nil; inner = errors.Unwrap(err) {
		err = inner
	}
	return err
}

// sysctls lists the one setting of the host that banger changes while it runs.
func (c *collector) sysctls() error {
	const forward = "net/ipv4/ip_forward"
	value, err := c.read("/proc/sys/" + forward)
	if err != nil {
		return absent(err)
	}
	c.add("sysctl", strings.ReplaceAll(forward, "/", "."), strings.TrimSpace(value))
	return nil
}

// sockets lists unix sockets by their path. A socket with several connections is
// listed once. Sockets of VMMs have paths of their jail, and are known by that.
func (c *collector) sockets() error {
	lines, err := c.lines("/proc/net/unix")
	if err != nil {
		return err
	}
	seen := make(map[string]bool)
	for _, line := range lines {
		// Num RefCount Protocol Flags Type St Inode Path; a path may hold blanks.
		fields := strings.Fields(line)
		if len(fields) < 8 {
			continue
		}
		path := line[strings.Index(line, fields[7]):]
		if c.within(strings.TrimPrefix(path, "@")) && !seen[path] {
			seen[path] = true
			c.add("socket", path, "")
		}
	}
	return nil
}
