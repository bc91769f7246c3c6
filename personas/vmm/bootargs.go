package vmm

import (
	"fmt"
	"strings"

	"banger/fc"
)

// defaultBootArgs are Firecracker's, for who gives none.
const defaultBootArgs = "reboot=k panic=1 nomodule 8250.nr_uarts=0 i8042.noaux i8042.nomux i8042.dumbkbd swiotlb=noforce"

// clockArgs tell a kernel how fast the emulated time stamp counter is, which else it
// measures. A secondary processor measures it by the first one's ticks: that takes a
// tenth of a second, and never ends where the host was so busy that the kernel has
// given up the first one's timer for another, which does not tick until all processors
// are up. lpj is the counter's ticks in one of the kernel's, for the slowest of those
// that kernels are built with: with a quicker one, a driver's short delays are longer
// than it asked for, and never shorter.
func clockArgs(tscKHz uint64) []string {
	const slowestHz = 100
	return []string{fmt.Sprintf("tsc_early_khz=%d", tscKHz), fmt.Sprintf("lpj=%d", tscKHz*1000/slowestHz)}
}

// emulatedArgs are what a kernel needs under emulation, or is much quicker with: clocks
// that need no calibration, which takes long or hangs; no defences against the host
// CPU's side channels, which an emulated one does not have; no self-tests of ciphers, a
// fifth of a second at each boot.
var emulatedArgs = []string{"tsc=reliable", "no_timer_check", "mitigations=off", "cryptomgr.notests"}

// bootArgs is the kernel's command line for config. tscKHz is zero under KVM. What the
// caller says himself stands.
func bootArgs(config fc.VMConfig, tscKHz uint64) string {
	args := defaultBootArgs
	if config.BootSource.BootArgs != nil {
		args = *config.BootSource.BootArgs
	}
	if root := rootArgs(config); root != "" {
		args = insert(args, root)
	}
	if tscKHz == 0 {
		return args
	}
	for _, arg := range append(clockArgs(tscKHz), emulatedArgs...) {
		if name, _, _ := strings.Cut(arg, "="); !mentions(args, name) {
			args = insert(args, arg)
		}
	}
	return args
}

// rootArgs names the root device, as Firecracker does, if a drive is it.
func rootArgs(config fc.VMConfig) string {
	if len(config.Drives) == 0 || !config.Drives[0].IsRoot {
		return ""
	}
	root := config.Drives[0]
	device, mode := "/dev/vda", "rw"
	if root.PartUUID != "" {
		device = "PARTUUID=" + root.PartUUID
	}
	if root.ReadOnly {
		mode = "ro"
	}
	return "root=" + device + " " + mode
}

// insert puts arg before what the kernel hands to init, which comes after "--".
func insert(args, arg string) string {
	before, after, found := strings.Cut(args, " -- ")
	before = strings.TrimSpace(before + " " + arg)
	if !found {
		return before
	}
	return before + " -- " + after
}

// mentions tells whether args sets name.
func mentions(args, name string) bool {
	kernel, _, _ := strings.Cut(args, " -- ")
	for _, arg := range strings.Fields(kernel) {
		if key, _, _ := strings.Cut(arg, "="); key == name {
			return true
		}
	}
	return false
}
