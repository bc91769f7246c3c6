package netns

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"sync"

	"banger/netns/rtnl"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"
)

// Config says which namespace is meant. Nothing in it comes from a client.
type Config struct {
	// Name is that of the namespace, of the nft tables, and the beginning of
	// the host's link. Empty means "banger".
	Name string

	// Prefix is the /16 of the address plan. Zero means the first that
	// collides with no route of the host. It is ignored where a plan exists.
	Prefix netip.Prefix

	// Host is the host's network namespace. Nil means, to Ensure, that of the
	// calling process, and, to Open, that nothing is to be done there. It
	// remains the caller's to close.
	Host *os.File
}

// validName leaves room for a digit behind it in a link's 15 bytes.
var validName = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^[a-z][a-z0-9-]{0,12}$`) })

func (c Config) name() (string, error) {
	switch {
	case c.Name == "":
		return "banger", nil
	case !validName().MatchString(c.Name):
		return "", fmt.Errorf("network namespace %q: bad name", c.Name)
	}
	return c.Name, nil
}

// Namespace is banger's network namespace, opened. Its methods are safe for
// concurrent use, except that the caller sees to it that no two work on the same
// slot, and that nothing runs beside Ensure and Remove.
type Namespace struct {
	name  string
	inner space // banger's own
	host  space // the host's; the zero space when unknown
	rt    *rtnl.Conn

	plan   Plan
	mtu    int
	bridge uint32 // index of the bridge
	uplink uint32 // index of the uplink's end on the host; zero where that is not known

	removals sync.WaitGroup // of taps, that the kernel is not done with

	// nftMu is held over a transaction, and guards the field that follows.
	nftMu sync.Mutex
	kept  *nftables.Conn // that transact used last; nil if there is none
}

// Dir is where named network namespaces are mounted, as for ip-netns(8).
const Dir = "/run/netns"

func path(name string) string { return filepath.Join(Dir, name) }

// Ensure makes the namespace, its uplink and its bridge, or adopts what stands
// of them, and returns it open. If it fails, it takes down what it made, but
// nothing that stood already: VMs may be using that. The caller has root's rights
// on the host and closes the result.
func Ensure(ctx context.Context, cfg Config) (_ *Namespace, err error) {
	name, err := cfg.name()
	if err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	n := &Namespace{name: name}
	if n.host, err = hostSpace(cfg.Host); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			n.Close()
		}
	}()
	made, err := n.openOrCreate()
	defer func() {
		if made && err != nil {
			err = errors.Join(err, n.Remove(context.WithoutCancel(ctx)))
		}
	}()
	if err != nil {
		return nil, err
	}
	host, err := rtnl.Dial(n.host.fd())
	if err != nil {
		return nil, err
	}
	defer host.Close()
	if err := n.ensure(ctx, cfg, host); err != nil {
		return nil, fmt.Errorf("set up network %q: %w", name, err)
	}
	return n, nil
}

// ensure brings up everything, from the inside to the outside: the host's side
// comes last, when nothing can pass that should not.
func (n *Namespace) ensure(ctx context.Context, cfg Config, host *rtnl.Conn) error {
	if err := n.settlePlan(cfg, host); err != nil {
		return err
	}
	hostAddrs, err := n.hostAddrs(host)
	if err != nil {
		return err
	}
	steps := []func() error{
		func() error { return n.ensurePolicy(hostAddrs) },
		n.ensureBridge,
		n.ensureHostRules,
		func() error { return n.ensureUplink(host) },
		n.ensureForwarding,
	}
	for _, step := range steps {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

// Open opens the namespace that the calling process is in. It changes nothing,
// and needs no right but those of the operations that are called on it: it is
// fs.ErrNotExist when the process is not in a namespace that Ensure made.
func Open(cfg Config) (*Namespace, error) {
	name, err := cfg.name()
	if err != nil {
		return nil, err
	}
	n := &Namespace{name: name}
	if cfg.Host != nil {
		if n.host, err = hostSpace(cfg.Host); err != nil {
			return nil, err
		}
	}
	if n.rt, err = rtnl.Dial(0); err != nil {
		n.Close()
		return nil, err
	}
	if err := n.adopt(); err != nil {
		n.Close()
		return nil, fmt.Errorf("open network %q: %w", name, err)
	}
	return n, nil
}

// Close closes the descriptors, once the kernel is done with the taps that were
// removed. The namespace itself stays.
func (n *Namespace) Close() error {
	n.removals.Wait()
	err := n.forgetNFT()
	if n.rt != nil {
		err = errors.Join(err, n.rt.Close())
	}
	return errors.Join(err, n.inner.close(), n.host.close())
}

// Plan is the address plan.
func (n *Namespace) Plan() Plan { return n.plan }

// MTU is the largest packet in bytes that passes the uplink; guests are told it.
func (n *Namespace) MTU() int { return n.mtu }

// Exec replaces the calling process by another program that runs inside the
// namespace. The host's namespace stays open over it, as the descriptor that
// HostFD tells, for a Remove later: the new process opens it with os.NewFile and
// gives it to Open. It returns only an error.
func (n *Namespace) Exec(program string, argv, env []string) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if n.inner.f == nil {
		return fmt.Errorf("enter network %q: already there", n.name)
	}
	before, err := currentSpace()
	if err != nil {
		return err
	}
	defer before.close()
	if _, err := unix.FcntlInt(n.host.f.Fd(), unix.F_SETFD, 0); err != nil {
		return fmt.Errorf("pass host's network namespace: %w", err)
	}
	if err := unix.Setns(n.inner.fd(), unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("enter network %q: %w", n.name, err)
	}
	err = unix.Exec(program, argv, env)
	return errors.Join(fmt.Errorf("run %s: %w", program, err), unix.Setns(before.fd(), unix.CLONE_NEWNET))
}

// HostFD is the number of the descriptor of the host's network namespace, or -1
// when it is not known.
func (n *Namespace) HostFD() int {
	if n.host.f == nil {
		return -1
	}
	return int(n.host.f.Fd())
}

// Remove takes down everything: taps, bridge, uplink, what banger has in the
// host's network, and the namespace's name. The namespace is gone when the last
// process has left it; that nothing of it is left to be reached does not depend
// on that. Removing what is gone is success. The host's namespace must be known.
func (n *Namespace) Remove(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if n.host.f == nil {
		return fmt.Errorf("remove network %q: the host's namespace is not known", n.name)
	}
	host, err := rtnl.Dial(n.host.fd())
	if err != nil {
		return err
	}
	defer host.Close()
	return errors.Join(
		n.removeUplink(host),
		n.restoreForwarding(),
		n.removeHostRules(),
		n.removeInside(),
		removeSpace(path(n.name)),
	)
}

// removeInside deletes the links, rather than leaving it to the end of the
// namespace, which a straggling process may put off.
func (n *Namespace) removeInside() error {
	if n.rt == nil {
		return nil
	}
	if err := gone(n.rt.DeleteGroup(tapGroup)); err != nil {
		return fmt.Errorf("remove taps: %w", err)
	}
	return removeLink(n.rt, bridgeName)
}

// openOrCreate opens the named namespace, and tells whether it had to make it.
func (n *Namespace) openOrCreate() (made bool, err error) {
	n.inner, err = openSpace(path(n.name))
	if errors.Is(err, fs.ErrNotExist) {
		if err := createSpace(path(n.name)); err != nil {
			return false, errors.Join(err, removeSpace(path(n.name)))
		}
		made = true
		n.inner, err = openSpace(path(n.name))
	}
	if err != nil {
		return made, err
	}
	n.rt, err = rtnl.Dial(n.inner.fd())
	return made, err
}

// hostSpace takes a descriptor of its own for the host's namespace.
func hostSpace(f *os.File) (space, error) {
	if f == nil {
		return currentSpace()
	}
	if !isSpace(f) {
		return space{}, fmt.Errorf("use %s as the host's namespace: not a network namespace", f.Name())
	}
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		return space{}, fmt.Errorf("use the host's namespace: %w", err)
	}
	return space{os.NewFile(uintptr(fd), "host netns")}, nil
}
