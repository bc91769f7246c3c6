// Package layout says where banger is on a host that it is installed on, and what
// the installer has recorded there. What it reads is root's alone.
package layout

import "path/filepath"

// Version is the newest layout that this binary understands, which is that of a record
// with a jailer. One without has withoutJailer, which older binaries understand, too.
const (
	Version       = 2
	withoutJailer = 1
)

// Paths that are the same on every host.
const (
	ConfigDir = "/etc/banger"
	Metadata  = ConfigDir + "/install.toml"

	// OwnerRun has bangerd's socket, HelperRun the helper's and all of the VMs
	// that ends with the boot.
	OwnerRun  = "/run/banger"
	HelperRun = "/run/banger-helper"

	// The sockets: bangerd's and the helper's for the owner, and the one over which
	// VMs' units ask the helper, for root.
	DaemonSocketPath = OwnerRun + "/bangerd.sock"
	HelperSocketPath = HelperRun + "/helper.sock"
	LaunchSocketPath = HelperRun + "/launch.sock"

	// OwnerState is the owner's store, HelperState what the helper keeps: kernels
	// that it has checked, and VMMs that the installer has put there.
	OwnerState  = "/var/lib/banger"
	HelperState = "/var/lib/banger-helper"
	Cache       = "/var/cache/banger"

	UnitDir = "/etc/systemd/system"

	// NetNS is where the network namespace is mounted.
	NetNS = "/run/netns/banger"
)

// Names of units.
const (
	DaemonService = "bangerd.service"
	DaemonSocket  = "bangerd.socket"
	HelperService = "banger-helper.service"
	HelperSocket  = "banger-helper.socket"
	HelperMount   = `run-banger\x2dhelper.mount`
	NetService    = "banger-net.service"
	NetWatch      = "banger-net-watch.service"
	VMTemplate    = "banger-vm@.service"
	VMSlice       = "banger.slice"
)

// VMUnit is the unit of the VM with this id.
func VMUnit(id string) string { return "banger-vm@" + id + ".service" }

// DefaultPrefix is where the binary is put.
const DefaultPrefix = "/usr/local"

// Binary is the installed binary below a prefix, which is an absolute path.
func Binary(prefix string) string { return filepath.Join(prefix, "bin/banger") }

// Links are the names by which the binary becomes a daemon.
func Links(prefix string) []string {
	return []string{filepath.Join(prefix, "bin/bangerd"), filepath.Join(prefix, "bin/banger-helper")}
}
