package jail

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// node is a device in the jail.
type node struct {
	name         string
	major, minor uint32
	// own nodes belong to the VM's uid with mode 0600, the others to everyone.
	own bool
	// optional nodes are left out where the host has none.
	optional bool
}

// nodes are all devices that a VMM can open. The host's own modes play no part.
func (p *plan) nodes() []node {
	n := []node{
		{name: "null", major: 1, minor: 3},
		{name: "zero", major: 1, minor: 5},
		{name: "full", major: 1, minor: 7},
		{name: "random", major: 1, minor: 8},
		{name: "urandom", major: 1, minor: 9},
		{name: "net/tun", major: 10, minor: 200, own: true, optional: true},
	}
	if p.KVM {
		n = append(n, node{name: "kvm", major: 10, minor: 232, own: true, optional: true})
	}
	return n
}

// makeDev fills dev of the new root.
func (p *plan) makeDev() error {
	for _, dir := range []string{"dev", "dev/net"} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			return fmt.Errorf("make /dev: %v", err)
		}
	}
	for _, n := range p.nodes() {
		if err := p.makeNode(n); err != nil {
			return err
		}
	}
	links := [][2]string{
		{"/proc/self/fd", "dev/fd"}, {"/proc/self/fd/0", "dev/stdin"},
		{"/proc/self/fd/1", "dev/stdout"}, {"/proc/self/fd/2", "dev/stderr"},
	}
	for _, l := range links {
		if err := os.Symlink(l[0], l[1]); err != nil {
			return fmt.Errorf("make /dev: %v", err)
		}
	}
	return nil
}

// makeNode makes one device node, or shows the host's own where making nodes is
// forbidden (user namespaces, device cgroups).
func (p *plan) makeNode(n node) error {
	host, target := "/dev/"+n.name, "dev/"+n.name
	if n.optional {
		if _, err := os.Lstat(host); errors.Is(err, os.ErrNotExist) {
			return nil
		}
	}
	mode, uid, gid := uint32(0o666), 0, 0
	if n.own {
		mode, uid, gid = 0o600, p.UID, p.GID
	}
	err := unix.Mknod(target, unix.S_IFCHR|mode, int(unix.Mkdev(n.major, n.minor)))
	if errors.Is(err, unix.EPERM) {
		return bindNode(host, target)
	}
	if err != nil {
		return fmt.Errorf("make %s: %v", host, err)
	}
	// The umask of the helper is none of the jail's business.
	if err := unix.Chmod(target, mode); err != nil {
		return fmt.Errorf("make %s: %v", host, err)
	}
	if err := unix.Lchown(target, uid, gid); err != nil {
		return fmt.Errorf("make %s: %v", host, err)
	}
	return nil
}

// bindNode shows the host's node; its own mode then decides who can open it.
func bindNode(host, target string) error {
	fd, err := unix.OpenTree(unix.AT_FDCWD, host, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return mountError("clone "+host, err)
	}
	attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NOEXEC}
	if err := unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH, &attr); err != nil {
		return mountError("restrict "+host, err)
	}
	return place(fd, target, false)
}
