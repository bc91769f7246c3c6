// Package helper is banger-helper, the only part of banger that runs as root:
// it binds each operation of package ops to the function that performs it.
//
// It lives inside banger's network namespace, owns the VMM processes and their
// taps, and takes no path, name, address, pid or uid from anyone.
package helper

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/user"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"banger/install/layout"
	"banger/netns"
	"banger/ops"
	"banger/personas"
	"banger/store/disk/cow"
)

// Folders of the helper. What is below /run ends with the boot, as VMs do.
const (
	runDir     = layout.HelperRun // 0711: sockets in it are reached by name
	tableDir   = runDir + "/vms"
	jailDir    = runDir + "/jails"
	logDir     = runDir + "/logs"
	kernelsDir = layout.HelperState + "/kernels"
)

// idleLimit is how long a standalone helper stays without a VM that runs and
// without anyone who asks, unless it is told otherwise.
const idleLimit = time.Minute

// Main is the role's entry: it returns the exit code.
func Main(args []string) int {
	// By the link, not by name: the file may have been replaced by a newer one.
	return MainWith("/proc/self/exe", args)
}

// MainWith is Main where another program than the own binary is banger-vmm, so that
// banger can be measured without it.
func MainWith(vmm string, args []string) int {
	personas.SetName("banger-helper")
	log := personas.NewLog(os.Stderr)
	if err := run(log, vmm, args); err != nil {
		log.Error("stop", "error", err)
		return 1
	}
	return 0
}

// config is what the helper is started with, by root alone.
type config struct {
	standalone  bool
	owner       owner
	binary      string        // path of an installed one
	ownerName   string        // of an installed one
	programs    *programs     // that were recorded, of an installed one
	hostNS      int           // descriptor of the host's network namespace; -1 where it is out of reach
	baseUID     int           // uid of the VM in slot 0
	firecracker string        // path of its binary; found by PATH if empty
	jailer      string        // path of what starts it; nothing does if empty
	vmm         string        // path of what is banger-vmm
	idle        time.Duration // after which a standalone one may leave
}

func parse(args []string) (config, error) {
	c := config{baseUID: vmUIDs}
	fs := flag.NewFlagSet("banger-helper", flag.ContinueOnError)
	fs.SetOutput(io.Discard)
	fs.BoolVar(&c.standalone, "standalone", false, "")
	fs.IntVar(&c.owner.uid, "owner-uid", -1, "")
	fs.IntVar(&c.owner.gid, "owner-gid", -1, "")
	fs.IntVar(&c.hostNS, "host-netns", -1, "")
	fs.DurationVar(&c.idle, "idle", idleLimit, "")
	if err := fs.Parse(args); err != nil {
		return c, fmt.Errorf("arguments: %w", err)
	}
	if !c.standalone {
		if len(args) > 0 {
			return c, errors.New("arguments: an installed helper takes none, a private one takes --standalone")
		}
		c, err := installed(layout.Metadata)
		if err != nil {
			return c, err
		}
		return c, errors.Join(checkBinary(c.binary), checkOwner(c.ownerName, c.owner, user.Lookup))
	}
	if c.owner.uid <= 0 || c.owner.gid <= 0 {
		return c, errors.New("arguments: --owner-uid and --owner-gid must name an ordinary user")
	}
	if c.idle <= 0 {
		return c, errors.New("arguments: --idle must be longer than nothing")
	}
	return c, nil
}

func run(log *slog.Logger, vmm string, args []string) error {
	if os.Geteuid() != 0 {
		return errors.New("banger-helper runs as root only, and is started by \"sudo banger\"")
	}
	ctx, stop := personas.Context()
	defer stop()
	if len(args) > 0 {
		if task := tasks[args[0]]; task != nil {
			return task(ctx, log, args[1:])
		}
	}
	c, err := parse(args)
	if err != nil {
		return err
	}
	c.vmm = vmm
	if c.standalone && c.hostNS < 0 {
		return moveIn(ctx, args)
	}
	return serve(ctx, log, c)
}

// moveIn makes the network namespace and becomes a helper inside it. Threads
// have namespaces, processes do not: only a new program is wholly inside.
func moveIn(ctx context.Context, args []string) error {
	ns, err := netns.Ensure(ctx, netns.Config{})
	if err != nil {
		return err
	}
	argv := append([]string{"banger-helper"}, args...)
	argv = append(argv, fmt.Sprintf("--host-netns=%d", ns.HostFD()))
	return ns.Exec("/proc/self/exe", argv, os.Environ())
}

// serve answers operations until it is told to stop or nobody needs it.
func serve(ctx context.Context, log *slog.Logger, c config) error {
	unix.Umask(0o022) // whatever sudo was called with: the modes below are meant
	host := closeHost(c.hostNS)
	defer host.Close()
	l, err := personas.Listener()
	if err != nil {
		return err
	}
	var listener ops.Listener = l
	var door *personas.Door // an installed one stays
	if c.standalone {
		if door, err = personas.NewDoor(l); err != nil {
			return err
		}
		listener = door
	}
	for _, d := range []string{runDir, tableDir, jailDir, logDir, kernelsDir} {
		if err := os.MkdirAll(d, 0o711); err != nil {
			return fmt.Errorf("make folder: %w", err)
		}
	}
	kept := &kernels{dir: kernelsDir}
	if err := kept.removeUnfinished(); err != nil {
		return err
	}
	network, err := netns.Open(netns.Config{Host: host})
	if err != nil {
		return err
	}
	defer network.Close()
	reservations, err := loadTable(tableDir, log)
	if err != nil {
		return err
	}
	m := &machines{
		owner: c.owner, table: reservations, kernels: kept,
		net: network, log: log, jails: jailDir, logs: logDir, baseUID: c.baseUID,
		firecracker: c.firecracker, jailer: c.jailer, bangerVMM: c.vmm, programs: c.programs,
	}
	if c.standalone {
		m.startAsChildren()
		defer m.spare.Relax()
	} else {
		l, err := units(ctx)
		if err != nil {
			return err
		}
		m.startVMM, m.shared, m.forget, m.snapshots = l.Start, true, l.Forget, cow.Loaded
	}
	if err := m.adopt(ctx); err != nil {
		log.Warn("adopt VMs, ignoring", "error", err)
	}
	s := &ops.Server{Log: log, Authorise: c.owner.authorise, Vet: vet}
	bind(s, m, &dns{network: network})

	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var watchers sync.WaitGroup
	watchers.Go(func() {
		defer cancel()
		m.watch(ctx, log, s, door, c.idle)
	})
	watchers.Go(func() {
		if err := m.boundLogs(ctx, log); err != nil {
			log.Warn("look at serial logs seldom only", "error", err)
		}
	})
	log.Info("ready", "owner", c.owner.uid, "network", network.Plan().Prefix(), "vms", len(m.table.all()), "running", m.running())
	err = s.Serve(ctx, listener)
	cancel()
	watchers.Wait()
	if err != nil || m.running() > 0 || !c.standalone {
		return err // VMs go on, and need their network
	}
	ctx = context.WithoutCancel(ctx)
	return errors.Join(m.sweep(ctx), network.Remove(ctx))
}

// watch keeps the logs bounded and the host's rules in place, and returns when
// the helper has left by its door, idle for long enough, or ctx is done.
func (m *machines) watch(ctx context.Context, log *slog.Logger, s *ops.Server, door *personas.Door, idle time.Duration) {
	tick := time.NewTicker(2 * time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if err := m.trimLogs(); err != nil {
			log.Warn("trim serial logs, ignoring", "error", err)
		}
		if door == nil {
			continue // its network is a unit's, and it stays
		}
		if repaired, err := m.net.RepairHostRules(ctx); err != nil && ctx.Err() == nil {
			log.Warn("repair the host's rules, ignoring", "error", err)
		} else if repaired {
			log.Warn(rulesRepaired)
		}
		if s.Idle() < idle || m.running() > 0 {
			continue
		}
		left, err := door.Leave(idle)
		if err != nil {
			log.Warn("leave, ignoring", "error", err)
		}
		if left {
			log.Info("leave", "idle", idle)
			return
		}
	}
}

// authorise admits the owner alone: root has no need of it.
func (o owner) authorise(cred *unix.Ucred) error {
	if int(cred.Uid) != o.uid {
		return fmt.Errorf("uid %d is not the owner", cred.Uid)
	}
	return nil
}

// bind joins words and deeds.
func bind(s *ops.Server, m *machines, d *dns) {
	ops.Bind(s, ops.Hello, m.hello)
	ops.Bind(s, ops.Inventory, m.inventory)
	ops.Bind(s, ops.Reconcile, m.reconcile)
	ops.Bind(s, ops.VMReserve, m.reserve)
	ops.Bind(s, ops.VMStart, m.start)
	ops.Bind(s, ops.VMSeal, m.seal)
	ops.Bind(s, ops.VMReconnect, m.reconnect)
	ops.Bind(s, ops.VMStop, m.stop)
	ops.Bind(s, ops.VMRelease, m.release)
	ops.Bind(s, ops.KernelPut, m.putKernel)
	ops.Bind(s, ops.Resolver, d.resolver)
}

func (m *machines) reserve(_ context.Context, call *ops.Call, _ ops.None) (ops.VMReserveReply, []*os.File, error) {
	r, err := m.table.reserve(call.ID)
	if err != nil {
		return ops.VMReserveReply{}, nil, err
	}
	if m.spare != nil {
		m.spare.Prepare()
	}
	plan := m.net.Plan()
	return ops.VMReserveReply{
		Handle: r.rec.Handle, ID: r.rec.ID, Slot: r.rec.Slot,
		Address: plan.Guest(r.rec.Slot).String(), Prefix: plan.Link().Bits(),
		Gateway: plan.Gateway().String(), MAC: plan.MAC(r.rec.Slot).String(),
	}, nil, nil
}

func (m *machines) reconcile(context.Context, *ops.Call, ops.None) (ops.None, []*os.File, error) {
	list := []ops.Reservation{}
	plan := m.net.Plan()
	for _, r := range m.table.all() {
		list = append(list, ops.Reservation{
			Handle: r.rec.Handle, ID: r.rec.ID, Slot: r.rec.Slot,
			Address: plan.Guest(r.rec.Slot).String(), MAC: plan.MAC(r.rec.Slot).String(),
			Running: r.mayRun(),
		})
	}
	f, err := memfd(list)
	return ops.None{}, []*os.File{f}, err
}

func (m *machines) putKernel(ctx context.Context, call *ops.Call, a ops.KernelPutArgs) (ops.KernelPutReply, []*os.File, error) {
	if m.kernels.have(a.Digest) {
		return ops.KernelPutReply{Have: true}, nil, nil
	}
	if len(call.Files) == 0 {
		return ops.KernelPutReply{}, nil, nil
	}
	f, err := checkFile(call.Files[0], m.owner.uid)
	if err != nil {
		return ops.KernelPutReply{}, nil, err
	}
	if err := m.kernels.put(ctx, a.Digest, f.File); err != nil {
		return ops.KernelPutReply{}, nil, err
	}
	return ops.KernelPutReply{Have: true}, nil, nil
}

func (m *machines) inventory(ctx context.Context, _ *ops.Call, _ ops.None) (ops.None, []*os.File, error) {
	list, err := m.net.Inventory(ctx)
	if err != nil {
		return ops.None{}, nil, err
	}
	f, err := memfd(list)
	return ops.None{}, []*os.File{f}, err
}

// memfd returns a file in memory with v as JSON.
func memfd(v any) (*os.File, error) {
	data, err := json.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("make answer: %w", err)
	}
	fd, err := unix.MemfdCreate("banger", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("make answer: %w", err)
	}
	f := os.NewFile(uintptr(fd), "answer")
	if _, err := f.WriteAt(data, 0); err != nil {
		f.Close()
		return nil, fmt.Errorf("make answer: %w", err)
	}
	return f, nil
}
