package link

import (
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"strings"
)

// InitMode says what becomes PID 1 of the guest.
type InitMode string

// The ways to run a guest.
const (
	// InitAuto takes the image's init where there is a usable one, else banger's.
	InitAuto InitMode = "auto"
	// InitBanger runs banger's own small init, for container images.
	InitBanger InitMode = "banger"
	// InitImage runs the image's init, and fails without one.
	InitImage InitMode = "image"
)

// Inits are the places of an image's init, best first. The import of an image looks for
// it in the same ones.
func Inits() []string {
	return []string{"/sbin/init", "/usr/sbin/init", "/usr/lib/systemd/systemd", "/lib/systemd/systemd", "/etc/init"}
}

// BootConfig is all that a guest is told. Nothing of it is on the kernel's
// command line, and nothing of it is written into an image: what it changes, it
// changes on the disk of the VM.
type BootConfig struct {
	// Hostname is one label, or a dotted name. Empty keeps the image's.
	Hostname string `json:"hostname,omitempty"`
	// Disk is where the root file system lies.
	Disk Disk `json:"disk"`
	// Modules is a read-only ext4 below /dev, as "vdb", with the modules of the
	// guest's kernel. Empty leaves only those that the image has for it.
	Modules string `json:"modules,omitempty"`
	// Network configures one interface. Nil leaves only loopback.
	Network *Network `json:"network,omitempty"`
	// MachineID is what machine-id(5) is about: 32 lower-case hex digits that no
	// other VM has, the same at every boot. Empty leaves the image's.
	MachineID string `json:"machine_id,omitempty"`
	// FirstBoot says that the disk is as the image made it: a machine id that it
	// has is the image's, and the same in every VM made from it.
	FirstBoot bool `json:"first_boot,omitempty"`
	// Hosts are more lines for /etc/hosts.
	Hosts []Host `json:"hosts,omitempty"`
	// AuthorizedKeys are lines for authorized_keys of root, and of Exec.User.
	AuthorizedKeys []string `json:"authorized_keys,omitempty"`
	// HostKey is sshd's Ed25519 private key in OpenSSH's PEM. It is installed
	// where the image has sshd. Empty leaves the image's keys.
	HostKey string `json:"host_key,omitempty"`
	// Files are written before init starts.
	Files []File `json:"files,omitempty"`
	// TimeUnixNano sets the wall clock. Zero leaves it.
	TimeUnixNano int64 `json:"time_unix_nano,omitempty"`
	// Entropy seeds the kernel's random number generator, at most 512 bytes.
	Entropy []byte `json:"entropy,omitempty"`
	// Init says what becomes PID 1. Empty is InitAuto.
	Init InitMode `json:"init,omitempty"`
	// Exec are the image's defaults for every command.
	Exec ExecDefaults `json:"exec,omitzero"`
}

// Disk says how the root file system is put together.
type Disk struct {
	// Device is the root disk below /dev, as "vda". With Upper set it is the
	// image, and is mounted read-only.
	Device string `json:"device"`
	// FSType is the file system of Device. Empty is "ext4".
	FSType string `json:"fs_type,omitempty"`
	// ReadOnly mounts the root file system read-only.
	ReadOnly bool `json:"read_only,omitempty"`
	// Upper is the VM's own ext4 below /dev, as "vdb", that overlayfs stacks
	// on Device. Empty: Device is the VM's own.
	Upper string `json:"upper,omitempty"`
	// Grow resizes the VM's own file system to the size of its device.
	Grow bool `json:"grow,omitempty"`
}

// Network configures one interface.
type Network struct {
	// MAC finds the interface. Empty takes the first one that is not loopback.
	MAC string `json:"mac,omitempty"`
	// Addresses are in CIDR notation: "10.83.0.3/16".
	Addresses []netip.Prefix `json:"addresses"`
	// Gateway is the default route. The zero Addr makes none.
	Gateway netip.Addr `json:"gateway,omitzero"`
	// MTU in bytes. Zero leaves the kernel's.
	MTU int `json:"mtu,omitempty"`
	// DNS are the resolvers' addresses. Empty leaves /etc/resolv.conf alone.
	DNS []netip.Addr `json:"dns,omitempty"`
	// Search are the resolver's search domains.
	Search []string `json:"search,omitempty"`
}

// Host is one line of /etc/hosts.
type Host struct {
	Address netip.Addr `json:"address"`
	Names   []string   `json:"names"`
}

// Home begins the path of a File that lies in the home of Exec.User.
const Home = "~/"

// File is one file that is written before init starts.
type File struct {
	// Path is absolute in the guest, and missing parents are made with mode 0755;
	// or it begins with Home, and what is made is that user's, parents with mode
	// 0700.
	Path string `json:"path"`
	// Mode are the permission bits.
	Mode uint32 `json:"mode"`
	UID  uint32 `json:"uid,omitempty"`
	GID  uint32 `json:"gid,omitempty"`
	Data []byte `json:"data"`
}

// ExecDefaults hold for every command that does not say otherwise.
type ExecDefaults struct {
	// Env are "K=V".
	Env []string `json:"env,omitempty"`
	// User is as in ExecRequest.
	User string `json:"user,omitempty"`
	// Dir is the working directory. Empty is the user's home.
	Dir string `json:"dir,omitempty"`
}

// Validate tells what in c a guest could not follow. Both sides call it.
func (c BootConfig) Validate() error {
	checks := []error{
		check(c.Hostname == "" || hostname(c.Hostname), "hostname", c.Hostname),
		check(c.MachineID == "" || MachineID(c.MachineID), "machine id", c.MachineID),
		check(device(c.Disk.Device), "disk device", c.Disk.Device),
		check(c.Disk.Upper == "" || device(c.Disk.Upper), "upper disk device", c.Disk.Upper),
		check(c.Modules == "" || device(c.Modules), "device of modules", c.Modules),
		check(c.Disk.FSType == "" || word(c.Disk.FSType), "file system", c.Disk.FSType),
		check(len(c.Entropy) <= 512, "entropy seed", "more than 512 bytes"),
		check(c.Exec.Dir == "" || absolute(c.Exec.Dir), "working directory", c.Exec.Dir),
		validEnv(c.Exec.Env),
	}
	switch c.Init {
	case "", InitAuto, InitBanger, InitImage:
	default:
		checks = append(checks, check(false, "init mode", string(c.Init)))
	}
	if c.Network != nil {
		checks = append(checks, c.Network.validate())
	}
	for _, f := range c.Files {
		checks = append(checks, check(f.validPath() && f.Mode&^0o7777 == 0, "file", f.Path))
	}
	for _, h := range c.Hosts {
		checks = append(checks, check(h.Address.IsValid() && len(h.Names) > 0, "host address", h.Address.String()))
		for _, n := range h.Names {
			checks = append(checks, check(hostname(n), "host name", n))
		}
	}
	for _, k := range c.AuthorizedKeys {
		checks = append(checks, check(oneLine(k), "authorized key", k))
	}
	if err := errors.Join(checks...); err != nil {
		return fmt.Errorf("boot configuration: %w", err)
	}
	return nil
}

func (f *File) validPath() bool {
	rel, home := strings.CutPrefix(f.Path, Home)
	if !home {
		return absolute(f.Path)
	}
	return filepath.IsLocal(rel) && rel != "." && !strings.ContainsRune(rel, 0)
}

func (n *Network) validate() error {
	checks := []error{check(n.MTU == 0 || n.MTU >= 576 && n.MTU <= 65535, "mtu", fmt.Sprint(n.MTU))}
	for _, a := range n.Addresses {
		checks = append(checks, check(a.IsValid(), "address", a.String()))
	}
	for _, a := range n.DNS {
		checks = append(checks, check(a.IsValid(), "resolver", a.String()))
	}
	for _, s := range n.Search {
		checks = append(checks, check(hostname(s), "search domain", s))
	}
	return errors.Join(checks...)
}

func check(ok bool, what, value string) error {
	if ok {
		return nil
	}
	return fmt.Errorf("invalid %s %q", what, value)
}

func oneLine(s string) bool  { return !strings.ContainsAny(s, "\n\r\x00") }
func absolute(s string) bool { return strings.HasPrefix(s, "/") && !strings.ContainsRune(s, 0) }

// word reports whether s is of letters and digits only.
func word(s string) bool {
	return s != "" && len(s) <= 32 && strings.Trim(s, "abcdefghijklmnopqrstuvwxyz0123456789") == ""
}

func device(s string) bool { return word(s) }

// MachineID reports whether s is an id as machine-id(5) has it.
func MachineID(s string) bool {
	return len(s) == 32 && strings.Trim(s, "0123456789abcdef") == "" && strings.Trim(s, "0") != ""
}

// hostname reports whether s is of labels that may stand in /etc/hosts.
func hostname(s string) bool {
	if len(s) > 253 {
		return false
	}
	for label := range strings.SplitSeq(s, ".") {
		if label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' {
			return false
		}
		for _, c := range []byte(label) {
			if !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' || c == '_') {
				return false
			}
		}
	}
	return true
}

func validEnv(env []string) error {
	for _, e := range env {
		if i := strings.IndexByte(e, '='); i <= 0 || strings.ContainsRune(e, 0) {
			return fmt.Errorf("invalid environment variable %q: it must be NAME=VALUE", e)
		}
	}
	return nil
}
