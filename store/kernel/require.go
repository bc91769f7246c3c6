package kernel

import (
	"fmt"
	"strings"

	"banger/store/kernel/modules"
)

// Requirement is a kernel option that guests need.
type Requirement struct {
	// Option without its CONFIG_ prefix; alternatives are separated by " or ".
	Option string `json:"option"`
	// Why says what does not work without it.
	Why string `json:"why"`
}

// RequirementError names the options for lack of which a kernel was refused.
type RequirementError struct {
	Missing []Requirement
}

// Error names every option and why it is needed.
func (e *RequirementError) Error() string {
	parts := make([]string, len(e.Missing))
	for i, m := range e.Missing {
		parts[i] = fmt.Sprintf("CONFIG_%s is missing (%s)", m.Option, m.Why)
	}
	return fmt.Sprintf("%v: %s", ErrCannotBoot, strings.Join(parts, "; "))
}

// Unwrap makes errors.Is find ErrCannotBoot.
func (e *RequirementError) Unwrap() error { return ErrCannotBoot }

// need is one row of the table of requirements.
type need struct {
	// option, or others of which any will do.
	option string
	others []string
	// module is the option's module, which may be there in its place.
	module string
	why    string
	// refuse tells that no guest boots without it.
	refuse bool
}

// needs is ordered as a guest comes upon them.
var needs = []need{
	{option: "BLK_DEV_INITRD", why: "the guest starts from an initrd", refuse: true},
	{option: "BINFMT_ELF", why: "the guest's first process is an ELF file", refuse: true},
	{option: "SERIAL_8250_CONSOLE", why: "the console is a serial port", refuse: true},
	{option: "PROC_FS", why: "/proc", refuse: true},
	{option: "SYSFS", why: "/sys", refuse: true},
	{option: "TMPFS", why: "/run", refuse: true},
	{option: "DEVTMPFS", why: "/dev", refuse: true},
	{option: "UNIX98_PTYS", why: "terminals", refuse: true},
	{option: "FUTEX", why: "the first process", refuse: true},
	{option: "EPOLL", why: "the first process", refuse: true},
	{option: "UNIX", why: "unix sockets", refuse: true},
	{option: "INET", why: "the network", refuse: true},
	{option: "ACPI", others: []string{"VIRTIO_MMIO_CMDLINE_DEVICES"}, why: "how a guest finds its devices", refuse: true},
	{option: "VIRTIO_MMIO", module: "virtio_mmio", why: "the bus of all devices", refuse: true},
	{option: "VIRTIO_BLK", module: "virtio_blk", why: "disks", refuse: true},
	{option: "VIRTIO_NET", module: "virtio_net", why: "the network", refuse: true},
	{option: "VSOCKETS", module: "vsock", why: "talking to the host", refuse: true},
	{option: "VIRTIO_VSOCKETS", module: "vmw_vsock_virtio_transport", why: "talking to the host", refuse: true},
	{option: "EXT4_FS", module: "ext4", why: "the root file system", refuse: true},

	{option: "OVERLAY_FS", module: "overlay", why: "overlay disks, and containers in the guest"},
	{option: "HW_RANDOM_VIRTIO", module: "virtio_rng", why: "random numbers from the host"},
	{option: "VIRTIO_BALLOON", module: "virtio_balloon", why: "giving memory back to the host"},
	{option: "CGROUPS", why: "systemd and containers in the guest"},
	{option: "NAMESPACES", why: "containers in the guest"},
	{option: "PACKET", module: "af_packet", why: "DHCP clients and tcpdump in the guest"},
	{option: "BRIDGE", module: "bridge", why: "container networks in the guest"},
	{option: "VETH", module: "veth", why: "container networks in the guest"},
	{option: "TUN", module: "tun", why: "VPNs in the guest"},
	{option: "NF_TABLES", module: "nf_tables", why: "firewalls and container networks in the guest"},
}

// verdict is what is known of one need.
type verdict int

const (
	absent verdict = iota
	present
	unknown
)

// facts is what the table is compared with.
type facts struct {
	// config is nil if the kernel came without one.
	config config
	// modules are those that are there.
	modules *modules.Set
	// builtins tells that the list of what is built in was there.
	builtins bool
}

// judge compares a kernel with the table. It returns a *RequirementError if a guest
// could not boot.
func judge(f facts) (missing []Requirement, unknowns []string, err error) {
	var fatal []Requirement
	for _, n := range needs {
		v, why := n.check(f)
		r := Requirement{Option: strings.Join(append([]string{n.option}, n.others...), " or CONFIG_"), Why: why}
		switch {
		case v == unknown:
			unknowns = append(unknowns, n.option)
		case v == absent && n.refuse:
			fatal = append(fatal, r)
		case v == absent:
			missing = append(missing, r)
		}
	}
	if len(fatal) > 0 {
		return nil, nil, &RequirementError{Missing: fatal}
	}
	return missing, unknowns, nil
}

// check decides one need, and says what does not work without it. An option set to
// m counts only if its module is there.
func (n need) check(f facts) (verdict, string) {
	if n.module != "" {
		if _, ok := f.modules.Lookup(n.module); ok || f.modules.Builtin(n.module) {
			return present, ""
		}
	}
	if f.config == nil {
		if n.module != "" && f.builtins {
			return absent, n.why
		}
		return unknown, ""
	}
	for _, o := range append([]string{n.option}, n.others...) {
		switch f.config[o] {
		case "y":
			return present, ""
		case "m":
			return absent, fmt.Sprintf("%s; it is a module, but %s.ko is not among the files", n.why, n.module)
		}
	}
	return absent, n.why
}
