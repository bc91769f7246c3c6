package helper

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"banger/fc/jail"
	"banger/install/layout"
	"banger/netns"
	"banger/personas/helper/systemd"
	"banger/personas/helper/unit"
	"banger/store/disk/dm"
)

// What the helper is on an installed host besides a service: the first argument
// picks it. Only units that root has written start these.
var tasks = map[string]func(ctx context.Context, log *slog.Logger, args []string) error{
	"net":      networkTask,
	"vm-start": startTask,
	"vm-stop":  stopTask,
}

// Paths of an installed helper.
const (
	launchSocket = layout.LaunchSocketPath
	pidDir       = runDir + "/pids"
)

// rulesRepaired is told when somebody has flushed the host's rules.
const rulesRepaired = "the host's rules were deleted, and are written again"

// networkTask is `banger-helper net up|watch|down|plan`: it makes the namespace and its
// uplink, keeps the host's rules in place, takes all away, or prints the network that an
// installation would get.
func networkTask(ctx context.Context, log *slog.Logger, args []string) error {
	if len(args) != 1 {
		return errors.New("arguments: want net up, watch, down or plan")
	}
	switch args[0] {
	case "plan":
		prefix, err := netns.Choose()
		if err != nil {
			return err
		}
		_, err = fmt.Println(prefix)
		return err
	case "up":
		record, err := layout.Load(layout.Metadata)
		if err != nil {
			return err
		}
		ns, err := netns.Ensure(ctx, netns.Config{Prefix: record.Network})
		if err != nil {
			return err
		}
		defer ns.Close()
		if err := systemd.SetLinkResolver(ctx, ns.UplinkIndex(), ns.Plan().Gateway(), "vm", reverseZone(record.Network)); err != nil {
			log.Warn("tell systemd-resolved of names below .vm, ignoring", "error", err)
		}
		// Nobody else of banger's on this host can have the kernel load what it takes.
		if err := dm.Probe(); err != nil {
			log.Info("disks will be no snapshots", "reason", err)
		}
		log.Info("network is up", "prefix", ns.Plan().Prefix())
		return nil
	case "watch":
		record, err := layout.Load(layout.Metadata)
		if err != nil {
			return err
		}
		return netns.KeepHostRules(ctx, netns.Config{Prefix: record.Network}, func() { log.Warn(rulesRepaired) })
	case "down":
		ns, err := netns.Find(netns.Config{})
		if errors.Is(err, fs.ErrNotExist) {
			return dm.Sweep(ctx)
		}
		if err != nil {
			return err
		}
		defer ns.Close()
		return errors.Join(ns.Remove(ctx), dm.Sweep(ctx))
	}
	return fmt.Errorf("arguments: net %q: want up, watch, down or plan", args[0])
}

// reverseZone is where the names of addresses in an IPv4 network of 16 bits are.
func reverseZone(p netip.Prefix) string {
	a := p.Addr().As4()
	return fmt.Sprintf("%d.%d.in-addr.arpa", a[1], a[0])
}

// startTask is `banger-helper vm-start ID`, the start of a VM's unit.
func startTask(ctx context.Context, _ *slog.Logger, args []string) error {
	if len(args) != 1 {
		return errors.New("arguments: want the VM's id")
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	// The jail's first process comes to life while the helper answers.
	var starter jail.Starter
	starter.Prepare()
	defer starter.Relax()
	order, err := unit.Take(ctx, launchSocket, args[0])
	if err != nil {
		return err
	}
	path, err := build(ctx, order.Spec, starter.Start)
	if err != nil {
		return errors.Join(err, order.Failed(err))
	}
	return order.Built(path)
}

// build builds the jail, with disks that are snapshots, and writes down which
// process is the unit's.
func build(ctx context.Context, s *jail.Spec, start func(context.Context, *jail.Spec) (*jail.Process, error)) (path string, err error) {
	if !slices.Contains(s.Args, jail.APISocket) {
		return "", errors.New("build jail: the helper is of another version: banger is being upgraded; try again")
	}
	// Files come from services that have mount namespaces of their own.
	again := func(f *os.File) *os.File {
		if f == nil || err != nil {
			return nil
		}
		var r *os.File
		r, err = jail.Reopen(f)
		return r
	}
	s.Kernel, s.Initrd = again(s.Kernel), again(s.Initrd)
	for i, d := range s.Disks {
		if d.Origin == nil { // else it is mounted nowhere
			s.Disks[i].File = again(d.File)
		}
	}
	if err != nil {
		return "", err
	}
	p, err := withSnapshots(start)(ctx, s)
	if err != nil {
		return "", err
	}
	if err := os.WriteFile(filepath.Join(pidDir, s.ID), []byte(strconv.Itoa(p.PID())+"\n"), 0o600); err != nil {
		return "", errors.Join(fmt.Errorf("write pid file: %w", err), p.Kill())
	}
	return p.Record().Dir, nil
}

// stopTask is `banger-helper vm-stop ID`: it lets the guest shut down, as when
// the host does.
func stopTask(ctx context.Context, _ *slog.Logger, args []string) error {
	if len(args) != 1 {
		return errors.New("arguments: want the VM's id")
	}
	paths, err := jail.List(jailDir)
	if err != nil {
		return err
	}
	for _, path := range paths {
		if !isJailOf(path, args[0]) {
			continue
		}
		p, err := jail.Adopt(ctx, path)
		if errors.Is(err, jail.ErrGone) {
			continue
		}
		if err != nil {
			return err
		}
		ctx, cancel := context.WithTimeout(ctx, shutdownTime)
		defer cancel()
		return errors.Join(p.Stop(ctx), p.Close())
	}
	return nil
}

// shutdownTime is what a guest gets to shut down when the host does: less than
// the unit's TimeoutStopSec.
const shutdownTime = 20 * time.Second

// units starts VMMs by systemd.
func units(ctx context.Context) (*unit.Launcher, error) {
	l := &unit.Launcher{
		Name: layout.VMUnit,
		Dial: func(ctx context.Context) (unit.Manager, error) { return systemd.Dial(ctx) },
	}
	return l, l.Listen(ctx, launchSocket)
}

// installed is the configuration of an installed helper: what root has recorded.
func installed(path string) (config, error) {
	r, err := layout.Load(path)
	if err != nil {
		return config{}, err
	}
	recorded := &programs{record: path}
	recorded.set(r)
	return config{
		owner: owner{uid: r.Owner.UID, gid: r.Owner.GID}, ownerName: r.Owner.Name, binary: layout.Binary(r.Prefix),
		programs: recorded, firecracker: cmp.Or(r.Firecracker.Path, layout.Firecracker), jailer: r.Jailer.Path,
		baseUID: r.UIDs.First, hostNS: -1,
	}, nil
}

// checkBinary refuses to serve as a program that others than root can exchange: what is
// started next would be theirs.
func checkBinary(path string) error {
	if err := layout.OnlyRoots(path); err != nil {
		return fmt.Errorf("%w: find out who has changed it, and see \"banger doctor\"", err)
	}
	return nil
}

// checkOwner refuses to serve whoever has got the uid of an owner who is no more. It
// finds users as the installer does, who takes nobody else for an owner.
func checkOwner(name string, o owner, lookup func(string) (*user.User, error)) error {
	u, err := lookup(name)
	switch {
	case errors.As(err, new(user.UnknownUserError)):
		err = errors.New("there is no such user any more")
	case err == nil && u.Uid != strconv.Itoa(o.uid):
		err = fmt.Errorf("the user has uid %s now, and had %d", u.Uid, o.uid)
	case err == nil:
		return nil
	}
	return fmt.Errorf("serve owner %s: %w: \"sudo banger system uninstall\", then \"sudo banger system install --owner NAME\"", name, err)
}

// closeHost keeps the descriptor of the host's namespace from the VMMs.
func closeHost(fd int) *os.File {
	if fd < 0 {
		return nil
	}
	unix.CloseOnExec(fd)
	return os.NewFile(uintptr(fd), "host network namespace")
}
