package etc

import (
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"banger/personas/guest/link"
)

// hintSystemd tells an image's systemd, in /run, what it would otherwise find out
// by waiting. Without systemd nobody reads it.
func (t Tree) hintSystemd(n *link.Network, nic string) []error {
	if !t.exists("/usr/lib/systemd") && !t.exists("/lib/systemd") {
		return nil
	}
	hints := map[string]string{
		// A disk that does not come shall not hold the boot for 90 seconds.
		"/run/systemd/system.conf.d/50-banger.conf": "[Manager]\nDefaultDeviceTimeoutSec=10s\n",
	}
	if n != nil {
		for path, text := range networkHints(n, nic) {
			hints[path] = text
		}
	}
	var errs []error
	for path, text := range hints {
		err := os.MkdirAll(filepath.Dir(t.path(path)), 0o755)
		if err == nil {
			err = replace(t.path(path), []byte(text), 0o644)
		}
		errs = append(errs, err)
	}
	// The serial port is the VM's log. A login there waits for a udev device
	// that images without udev never get, and asks nobody.
	return append(errs, t.mask("serial-getty@ttyS0.service"))
}

// mask makes systemd ignore a unit during this boot.
func (t Tree) mask(unit string) error {
	path := t.path("/run/systemd/system/" + unit)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	if err := os.Symlink("/dev/null", path); err != nil && !os.IsExist(err) {
		return err
	}
	return nil
}

// networkHints describes the interface, as it is configured already, to
// systemd-networkd and systemd-resolved, and keeps udev from renaming it.
func networkHints(n *link.Network, nic string) map[string]string {
	var b bytes.Buffer
	fmt.Fprintf(&b, "[Match]\nName=%s\n\n[Network]\nKeepConfiguration=yes\nLinkLocalAddressing=no\nIPv6AcceptRA=no\n", nic)
	for _, a := range n.Addresses {
		fmt.Fprintf(&b, "Address=%s\n", a)
	}
	if n.Gateway.IsValid() {
		fmt.Fprintf(&b, "Gateway=%s\n", n.Gateway)
	}
	resolver := "[Resolve]\n"
	for _, a := range n.DNS {
		fmt.Fprintf(&b, "DNS=%s\n", a)
		resolver += "DNS=" + a.String() + "\n"
	}
	if len(n.Search) > 0 {
		fmt.Fprintf(&b, "Domains=%s\n", strings.Join(n.Search, " "))
		resolver += "Domains=" + strings.Join(n.Search, " ") + "\n"
	}
	hints := map[string]string{
		"/run/systemd/network/00-banger.network": b.String(),
		"/run/systemd/network/00-banger.link":    fmt.Sprintf("[Match]\nOriginalName=%s\n\n[Link]\nNamePolicy=\nName=%s\n", nic, nic),
	}
	if len(n.DNS) > 0 {
		hints["/run/systemd/resolved.conf.d/50-banger.conf"] = resolver
	}
	return hints
}

// chmodBits sets all twelve mode bits.
func chmodBits(path string, mode uint32) error {
	m := fs.FileMode(mode).Perm()
	for bit, as := range map[uint32]fs.FileMode{0o4000: fs.ModeSetuid, 0o2000: fs.ModeSetgid, 0o1000: fs.ModeSticky} {
		if mode&bit != 0 {
			m |= as
		}
	}
	return os.Chmod(path, m)
}
