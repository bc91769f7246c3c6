package doctor

import (
	"bufio"
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// tun looks for the device by which taps are made.
func (h Host) tun(context.Context) Result {
	const path = "/dev/net/tun"
	info, err := os.Stat(h.path(path))
	switch {
	case err != nil:
		return Result{Fail, path + " is missing: VMs get no network", "run \"modprobe tun\"; in a container, pass it in (docker: --device /dev/net/tun)"}
	case info.Mode()&os.ModeCharDevice == 0:
		return Result{Fail, path + " is not a device", "remove it and run \"modprobe tun\""}
	}
	return Result{OK, path, ""}
}

// kernelFloor is the first kernel with mount_setattr, of which jails are made.
var kernelFloor = version{5, 12, 0}

// feature is a part of the kernel that banger's network is made of.
type feature struct{ module, config string }

var features = []feature{
	{"tun", "CONFIG_TUN"}, {"bridge", "CONFIG_BRIDGE"}, {"veth", "CONFIG_VETH"},
	{"nf_tables", "CONFIG_NF_TABLES"}, {"nft_ct", "CONFIG_NFT_CT"}, {"nft_masq", "CONFIG_NFT_MASQ"},
	{"nft_connlimit", "CONFIG_NFT_CONNLIMIT"}, {"nf_conntrack", "CONFIG_NF_CONNTRACK"},
}

// switches are parts that are no module of their own.
var switches = []string{"CONFIG_NET_NS", "CONFIG_NF_TABLES_INET", "CONFIG_NF_TABLES_NETDEV", "CONFIG_NETFILTER_INGRESS"}

// kernel looks at the version, and for each feature: loaded, built in, or there to
// be loaded.
func (h Host) kernel(context.Context) Result {
	release, err := h.read("/proc/sys/kernel/osrelease")
	if err != nil {
		return Result{Info, "the kernel's release cannot be read: " + err.Error(), ""}
	}
	if v, ok := parseVersion(release); ok && v.before(kernelFloor) {
		return Result{Fail, fmt.Sprintf("kernel %s is too old to build a jail", release), "boot Linux 5.12 or later"}
	}
	config := h.config(release)
	modules := h.modules(release)
	var missing, unknown []string
	for _, f := range features {
		switch {
		case h.exists("/sys/module/" + f.module), config[f.config], modules[f.module]:
		case len(config) > 0 || len(modules) > 0:
			missing = append(missing, f.module)
		default:
			unknown = append(unknown, f.module)
		}
	}
	if len(config) > 0 {
		for _, s := range switches {
			if !config[s] {
				missing = append(missing, s)
			}
		}
	}
	switch {
	case len(missing) > 0:
		return Result{Fail, fmt.Sprintf("kernel %s lacks %s", release, strings.Join(missing, ", ")),
			"install the kernel's modules (Debian: linux-image, Ubuntu: linux-modules-extra), or boot a kernel that has them"}
	case len(unknown) > 0:
		return Result{Info, fmt.Sprintf("kernel %s does not tell whether it has %s", release, strings.Join(unknown, ", ")),
			"if starting a VM fails at its network, look for these in the kernel's configuration"}
	}
	return Result{OK, fmt.Sprintf("kernel %s has all that the network needs", release), ""}
}

// config returns the options that are set, from where a kernel keeps them.
func (h Host) config(release string) map[string]bool {
	if f, err := os.Open(h.path("/proc/config.gz")); err == nil {
		defer f.Close()
		if z, err := gzip.NewReader(f); err == nil {
			return parseConfig(z)
		}
	}
	for _, p := range []string{"/boot/config-" + release, "/lib/modules/" + release + "/config"} {
		if f, err := os.Open(h.path(p)); err == nil {
			defer f.Close()
			return parseConfig(f)
		}
	}
	return nil
}

// maxConfig is far above the size of any kernel's configuration or module list.
const maxConfig = 16 << 20

func parseConfig(r io.Reader) map[string]bool {
	set := make(map[string]bool)
	lines := bufio.NewScanner(io.LimitReader(r, maxConfig))
	for lines.Scan() {
		name, value, ok := strings.Cut(lines.Text(), "=")
		if ok && strings.HasPrefix(name, "CONFIG_") && (value == "y" || value == "m") {
			set[name] = true
		}
	}
	return set
}

// modules returns those that are built in or can be loaded.
func (h Host) modules(release string) map[string]bool {
	names := make(map[string]bool)
	for _, list := range []string{"modules.builtin", "modules.dep"} {
		f, err := os.Open(h.path("/lib/modules/" + release + "/" + list))
		if err != nil {
			continue
		}
		lines := bufio.NewScanner(io.LimitReader(f, maxConfig))
		lines.Buffer(nil, 1<<20)
		for lines.Scan() {
			names[moduleName(lines.Text())] = true
		}
		f.Close()
	}
	return names
}

// moduleName makes "nf_tables" of "kernel/net/netfilter/nf-tables.ko.xz: others".
func moduleName(line string) string {
	file, _, _ := strings.Cut(line, ":")
	base := file[strings.LastIndexByte(file, '/')+1:]
	name, _, _ := strings.Cut(base, ".")
	return strings.ReplaceAll(name, "-", "_")
}

// cgroups looks for the unified hierarchy, by which VMs can be limited.
func (h Host) cgroups(context.Context) Result {
	controllers, err := h.read("/sys/fs/cgroup/cgroup.controllers")
	switch {
	case err != nil:
		return Result{Info, "no cgroup v2 at /sys/fs/cgroup: VMs are not limited in processor and memory on the host",
			"boot with systemd.unified_cgroup_hierarchy=1 where limits matter"}
	case !strings.Contains(controllers, "memory") || !strings.Contains(controllers, "cpu"):
		return Result{Info, "cgroup v2 without the controllers cpu and memory", ""}
	}
	return Result{OK, "cgroup v2 with " + controllers, ""}
}

// readOnly tells whether the file system at a path cannot be written.
func (h Host) readOnly(p string) bool {
	var st unix.Statfs_t
	return unix.Statfs(h.path(p), &st) == nil && st.Flags&unix.ST_RDONLY != 0
}
