package netns

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"strings"

	"banger/netns/rtnl"

	"github.com/google/nftables"
)

// Object is something in the kernel that banger's network made, or changed.
type Object struct {
	// Where is "host" or "inside".
	Where string `json:"where"`

	// Kind is "netns", "link", "neighbour", "table", "chain", "element",
	// "sysctl" or "record".
	Kind string `json:"kind"`

	// Name tells it from others of its kind.
	Name string `json:"name"`

	// Detail is what else there is to know, such as whose it is.
	Detail string `json:"detail,omitempty"`
}

// Inventory lists every object of a namespace that need not be open, nor exist,
// and what of it is left in the host's network. It is the part of the leak
// oracle that looks at the network: it reads the kernel, and trusts no record.
func Inventory(ctx context.Context, cfg Config) ([]Object, error) {
	name, err := cfg.name()
	if err != nil {
		return nil, err
	}
	n := &Namespace{name: name}
	defer n.Close()
	if n.host, err = hostSpace(cfg.Host); err != nil {
		return nil, err
	}
	n.inner, err = openSpace(path(name))
	if err == nil {
		n.rt, err = rtnl.Dial(n.inner.fd())
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	return n.Inventory(ctx)
}

// Inventory lists every object of the namespace, and, where the host's namespace
// is known, of the host's network, in a fixed order.
func (n *Namespace) Inventory(ctx context.Context) ([]Object, error) {
	var all []Object
	parts := []func() ([]Object, error){n.mounted}
	if n.host.f != nil {
		parts = append(parts, n.hostLinks, n.hostSysctls, func() ([]Object, error) { return n.rules("host", n.host) })
	}
	if n.rt != nil {
		parts = append(parts, n.innerLinks, n.neighbours, func() ([]Object, error) { return n.rules("inside", n.inner) })
	}
	for _, part := range parts {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		objects, err := part()
		if err != nil {
			return nil, fmt.Errorf("list network %q: %w", n.name, edge(err))
		}
		all = append(all, objects...)
	}
	slices.SortFunc(all, func(a, b Object) int {
		return cmp.Or(cmp.Compare(a.Where, b.Where), cmp.Compare(a.Kind, b.Kind),
			cmp.Compare(a.Name, b.Name), cmp.Compare(a.Detail, b.Detail))
	})
	return all, nil
}

func (n *Namespace) mounted() ([]Object, error) {
	s, err := openSpace(path(n.name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return []Object{{Where: "host", Kind: "netns", Name: path(n.name)}}, s.close()
}

func (n *Namespace) hostSysctls() ([]Object, error) {
	value, err := readForwarding(n.host)
	if err != nil {
		return nil, err
	}
	all := []Object{{"host", "sysctl", "net.ipv4.ip_forward", value}}
	if _, err := os.Lstat(n.forwardingRecord()); err == nil {
		all = append(all, Object{"host", "record", n.forwardingRecord(), ""})
	}
	return all, nil
}

// hostLinks lists the host's links that bear banger's alias, by whatever name.
func (n *Namespace) hostLinks() ([]Object, error) {
	host, err := rtnl.Dial(n.host.fd())
	if err != nil {
		return nil, err
	}
	defer host.Close()
	links, err := host.Links()
	if err != nil {
		return nil, err
	}
	var all []Object
	for _, l := range links {
		if strings.HasPrefix(l.Alias, n.name+":") {
			all = append(all, linkObject("host", l))
		}
	}
	return all, nil
}

// innerLinks lists all links of the namespace: whatever is there is banger's.
func (n *Namespace) innerLinks() ([]Object, error) {
	links, err := n.rt.Links()
	if err != nil {
		return nil, err
	}
	var all []Object
	for _, l := range links {
		if l.Name != "lo" {
			all = append(all, linkObject("inside", l))
		}
	}
	return all, nil
}

func linkObject(where string, l rtnl.Link) Object {
	detail := fmt.Sprintf("%s alias=%s", l.Kind, l.Alias)
	if l.Tun != nil {
		owner := "anyone"
		if l.Tun.Owner != rtnl.NoOwner {
			owner = strconv.FormatUint(uint64(l.Tun.Owner), 10)
		}
		detail += " owner=" + owner
	}
	return Object{where, "link", l.Name, detail}
}

func (n *Namespace) neighbours() ([]Object, error) {
	entries, err := n.rt.Neighbours()
	if err != nil {
		return nil, err
	}
	var all []Object
	for _, e := range entries {
		all = append(all, Object{"inside", "neighbour", e.IP.String(), e.MAC.String()})
	}
	return all, nil
}

// rules lists banger's tables and what is in them, in one of the namespaces. In
// the counts of connections is nothing that outlives them: they are left out.
func (n *Namespace) rules(where string, s space) ([]Object, error) {
	c, err := transaction(s)
	if err != nil {
		return nil, err
	}
	tables, err := c.ListTables()
	if err != nil {
		return nil, err
	}
	var all []Object
	for _, t := range tables {
		if t.Name != n.name {
			continue
		}
		all = append(all, Object{where, "table", tableName(t), ""})
		elements, err := policyElements(c, t, where)
		if err != nil {
			return nil, err
		}
		all = append(all, elements...)
	}
	chains, err := c.ListChains()
	if err != nil {
		return nil, err
	}
	for _, chain := range chains {
		if chain.Table.Name == n.name {
			all = append(all, Object{where, "chain", tableName(chain.Table) + " " + chain.Name, ""})
		}
	}
	return all, nil
}

// policyElements lists the addresses in the sets of a table.
func policyElements(c *nftables.Conn, t *nftables.Table, where string) ([]Object, error) {
	sets, err := c.GetSets(t)
	if err != nil {
		return nil, err
	}
	var all []Object
	for _, set := range sets {
		if set.Anonymous || set.Dynamic {
			continue
		}
		elements, err := c.GetSetElements(set)
		if err != nil {
			return nil, err
		}
		for _, e := range elements {
			all = append(all, Object{where, "element", fmt.Sprintf("%s %s %s", tableName(t), set.Name, elementAddr(e)), ""})
		}
	}
	return all, nil
}

func tableName(t *nftables.Table) string {
	family := map[nftables.TableFamily]string{
		nftables.TableFamilyINet: "inet", nftables.TableFamilyNetdev: "netdev",
		nftables.TableFamilyIPv4: "ip", nftables.TableFamilyIPv6: "ip6",
		nftables.TableFamilyARP: "arp", nftables.TableFamilyBridge: "bridge",
	}[t.Family]
	return family + " " + t.Name
}
