package kernel

import (
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"

	"banger/store/kernel/modules"
)

// bootModules are what the guest loads first: its bus, then what it needs to call
// the host, then disk, network, and the root file system. Those that the kernel has
// built in, or has not, are left out.
var bootModules = []string{
	"virtio_mmio", "vmw_vsock_virtio_transport", "virtio_blk", "virtio_net", "ext4",
}

// bootOptional are loaded too, and left out when something that they need is missing.
var bootOptional = []string{"virtio_rng", "virtio_balloon"}

// demandModules are in the initrd in case that a VM's disk is an overlay.
var demandModules = []string{"overlay"}

// extraDirs and extraModules are what containers, VPNs and firewalls in a guest ask
// for: whole directories, by path, and single modules, by name.
var extraDirs = []string{
	"kernel/net/bridge/", "kernel/net/netfilter/", "kernel/net/ipv4/", "kernel/net/ipv6/",
	"kernel/net/8021q/", "kernel/net/802/", "kernel/net/llc/", "kernel/net/sched/", "kernel/net/core/",
	"kernel/net/packet/", "kernel/net/unix/", "kernel/net/netlink/",
	"kernel/drivers/virtio/", "kernel/drivers/net/ipvlan/", "kernel/drivers/net/vxlan/",
	"kernel/drivers/net/wireguard/", "kernel/fs/fuse/", "kernel/fs/overlayfs/",
	"kernel/fs/squashfs/", "kernel/fs/isofs/", "kernel/fs/autofs/", "kernel/fs/nls/",
}

var extraModules = []string{
	"af_packet", "binfmt_misc", "dummy", "geneve", "ifb", "loop", "macvlan", "macvtap", "nbd",
	"tap", "tun", "veth", "vrf", "vsock_diag", "vxlan", "zram",
}

// neededModules are what all those depend on, in the kernels of today. A name that is
// not here costs a second pass over the package, nothing else.
var neededModules = []string{
	"842", "842_compress", "842_decompress", "cdrom", "chacha_x86_64", "crc16", "crc32c_generic",
	"curve25519_x86_64", "failover", "garp", "ife", "ip6_udp_tunnel", "jbd2", "libblake2s", "libchacha",
	"libchacha20poly1305", "libcrc32c", "libcurve25519", "libcurve25519_generic", "libphy", "llc",
	"lz4_compress", "lz4hc_compress", "lzo", "mbcache", "mpls_gso", "mrp", "net_failover", "p8022",
	"poly1305_x86_64", "psample", "psnap", "stp", "udp_tunnel", "vmw_vsock_virtio_transport_common",
	"vsock", "xfrm_algo", "xfrm_ipcomp", "xxhash", "zsmalloc", "zstd_compress",
}

// chosen tells whether to keep the module at p, relative to the module directory,
// when it comes by.
func chosen(p string) bool {
	for _, dir := range extraDirs {
		if strings.HasPrefix(p, dir) {
			return true
		}
	}
	name := modules.NameOf(path.Base(p))
	for _, list := range [][]string{bootModules, bootOptional, demandModules, extraModules, neededModules} {
		if slices.Contains(list, name) {
			return true
		}
	}
	return false
}

// plan sorts the modules of set into the times at which a guest needs them. The
// second result are modules that nothing can load, because what they need is missing.
func plan(ctx context.Context, set *modules.Set) (Modules, []string, error) {
	boot, err := set.Order(ctx, bootModules...)
	if unloadable(err) {
		return Modules{}, nil, fmt.Errorf("%w: %w", ErrCannotBoot, err)
	}
	if err != nil {
		return Modules{}, nil, err
	}
	var rest, useless []string
	for _, x := range set.All() {
		rest = append(rest, x.Name)
	}
	p := planning{set: set, taken: map[string]bool{}}
	m := Modules{Boot: p.take(boot)}
	for _, c := range []struct {
		list  *[]string
		names []string
	}{{&m.Boot, bootOptional}, {&m.OnDemand, demandModules}, {&m.Extra, rest}} {
		paths, err := p.tryAll(ctx, c.names)
		if err != nil {
			return Modules{}, nil, err
		}
		*c.list = append(*c.list, paths...)
	}
	for _, x := range set.All() {
		if !p.taken[x.Path] {
			useless = append(useless, x.Path)
		}
	}
	return m, useless, nil
}

// unloadable tells that modules cannot be loaded, though nothing is wrong with them.
func unloadable(err error) bool {
	return errors.Is(err, modules.ErrMissing) || errors.Is(err, modules.ErrCycle)
}

// planning remembers which modules have been given out, by path.
type planning struct {
	set   *modules.Set
	taken map[string]bool
}

func (p *planning) take(list []modules.Module) []string {
	var paths []string
	for _, m := range list {
		if !p.taken[m.Path] {
			p.taken[m.Path] = true
			paths = append(paths, m.Path)
		}
	}
	return paths
}

// tryAll takes the modules called names, each with what it needs, and leaves out
// those that cannot be loaded.
func (p *planning) tryAll(ctx context.Context, names []string) ([]string, error) {
	var paths []string
	for _, name := range names {
		order, err := p.set.Order(ctx, name)
		if unloadable(err) {
			continue
		}
		if err != nil {
			return nil, err
		}
		paths = append(paths, p.take(order)...)
	}
	return paths, nil
}
