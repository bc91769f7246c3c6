package doctor

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"

	"banger/install/layout"
)

// namespace tells whether banger's network is up, and whether it could be made.
func (h Host) namespace(context.Context) Result {
	if h.exists(layout.NetNS) {
		return Result{OK, "banger's network namespace is up", ""}
	}
	if os.Geteuid() != 0 {
		return Result{Info, "banger's network namespace is not up; only root can tell whether it could be", ""}
	}
	if err := tryNamespace(); err != nil {
		return Result{Fail, fmt.Sprintf("a network namespace cannot be made: %v", err),
			"in a container, add the capability SYS_ADMIN and NET_ADMIN"}
	}
	return Result{OK, "banger's network namespace is not up, and can be made", ""}
}

// tryNamespace makes a network namespace and leaves it again, whereupon it is
// gone. A thread that cannot go back is thrown away with its goroutine.
func tryNamespace() error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		before, err := os.Open("/proc/thread-self/ns/net")
		if err != nil {
			runtime.UnlockOSThread()
			done <- err
			return
		}
		defer before.Close()
		err = unix.Unshare(unix.CLONE_NEWNET)
		if unix.Setns(int(before.Fd()), unix.CLONE_NEWNET) == nil || err != nil {
			runtime.UnlockOSThread()
		}
		done <- err
	}()
	return <-done
}

// uplink looks for the way out of the host, which is the guests' too.
func (h Host) uplink(context.Context) Result {
	table, err := h.read("/proc/net/route")
	if err != nil {
		return Result{Info, "the host's routes cannot be read: " + err.Error(), ""}
	}
	device := defaultRoute(table)
	if device == "" {
		return Result{Warn, "the host has no default route: guests reach nobody", "connect the host, or run VMs with --net none"}
	}
	detail := "default route by " + device
	if mtu, err := h.read("/sys/class/net/" + device + "/mtu"); err == nil {
		detail += ", packets of up to " + mtu + " bytes"
	}
	return Result{OK, detail, ""}
}

// defaultRoute finds the device of the default route in /proc/net/route:
//
//	Iface  Destination  Gateway  Flags  RefCnt  Use  Metric  Mask ...
func defaultRoute(table string) string {
	for line := range strings.Lines(table) {
		f := strings.Fields(line)
		if len(f) >= 8 && f[1] == "00000000" && f[7] == "00000000" {
			return f[0]
		}
	}
	return ""
}

// forwarding looks at the setting that makes the host pass on packets of guests.
func (h Host) forwarding(context.Context) Result {
	value, err := h.read("/proc/sys/net/ipv4/ip_forward")
	switch {
	case err != nil:
		return Result{Info, "net.ipv4.ip_forward cannot be read: " + err.Error(), ""}
	case value == "1":
		return Result{OK, "net.ipv4.ip_forward is 1", ""}
	case h.readOnly("/proc/sys/net"):
		return Result{Fail, "net.ipv4.ip_forward is 0 and cannot be set, as /proc/sys is read-only",
			"set it from outside (docker: --sysctl net.ipv4.ip_forward=1)"}
	case h.exists(layout.NetNS):
		return Result{Fail, "net.ipv4.ip_forward was set to 0 while banger's network is up: guests reach nobody",
			`set it to 1 ("sudo banger system restart" does, where banger is installed), and look in /etc/sysctl.d for what sets it`}
	}
	return Result{OK, "net.ipv4.ip_forward is 0; banger sets it while its network is up, and puts it back", ""}
}
