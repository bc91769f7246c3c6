package vm

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"path"
	"strings"
	"time"

	"banger/personas/api"
	"banger/personas/guest/link"
)

// bootTimeout bounds the time from InstanceStart to a guest that is ready. A
// guest with systemd on an emulated CPU takes seconds; a hung one is told so.
const bootTimeout = 2 * time.Minute

// silentTime bounds the time from InstanceStart to the first word of an emulated
// guest. That comes after two seconds, and on a busy host after twenty; but an
// emulated kernel has been seen to hang before it had started anything, for a
// reason that is not known: twice in about 150 boots of one host.
const silentTime = time.Minute

// errSilent means that a guest has not said its first word in time.
var errSilent = errors.New("the guest said nothing")

// boot waits for the guest, tells it what to become, and waits until it is. If limit
// is not 0 it bounds the wait for the first word, whose lack is errSilent.
func (m *machine) boot(ctx context.Context, limit time.Duration, r *Record, disks []disk, given given, progress func(api.Event)) error {
	ctx, cancel := context.WithTimeoutCause(ctx, bootTimeout,
		&api.Error{Code: api.CodeTimeout, Message: fmt.Sprintf("the guest was not ready within %v", bootTimeout)})
	defer cancel()
	ctx, lost := context.WithCancelCause(ctx)
	defer lost(nil)
	done := make(chan struct{})
	defer close(done)
	go func() {
		select {
		case <-m.exited:
			lost(errExited)
		case <-done:
		}
	}()
	err := m.converse(ctx, limit, r, disks, given, progress)
	if err != nil && context.Cause(ctx) != nil {
		return context.Cause(ctx)
	}
	return err
}

func (m *machine) converse(ctx context.Context, limit time.Duration, r *Record, disks []disk, given given, progress func(api.Event)) error {
	end := api.Begin(progress, "kernel")
	conn, err := m.firstWord(ctx, limit)
	if err != nil {
		return fmt.Errorf("wait for guest: %w", err)
	}
	defer conn.Close()
	if _, err := link.ReadHello(ctx, conn); err != nil {
		return err
	}
	end()
	end = api.Begin(progress, "guest")
	config, err := bootConfig(r, disks, m.mtu)
	if err != nil {
		return err
	}
	config.Files, config.AuthorizedKeys = given.files, given.keys
	if err := link.SendBoot(ctx, conn, config); err != nil {
		return err
	}
	ready, err := link.ReadReady(ctx, conn)
	if err != nil {
		return err
	}
	for _, w := range ready.Warnings {
		progress(api.Event{Notice: "guest: " + w})
	}
	end()
	return nil
}

// firstWord returns the connection that the guest makes.
func (m *machine) firstWord(ctx context.Context, limit time.Duration) (net.Conn, error) {
	if limit == 0 {
		return accept(ctx, m.hello)
	}
	ctx, cancel := context.WithTimeoutCause(ctx, limit, errSilent)
	defer cancel()
	conn, err := accept(ctx, m.hello)
	if err != nil && context.Cause(ctx) == errSilent {
		return nil, errSilent
	}
	return conn, err
}

// accept is l.Accept with a context.
func accept(ctx context.Context, l net.Listener) (net.Conn, error) {
	dl, ok := l.(interface{ SetDeadline(time.Time) error })
	if !ok {
		return nil, fmt.Errorf("accept on %s: no deadlines", l.Addr().Network())
	}
	if err := dl.SetDeadline(time.Time{}); err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { dl.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	return l.Accept()
}

func bootConfig(r *Record, disks []disk, mtu int) (link.BootConfig, error) {
	c := link.BootConfig{
		Hostname:     r.Name,
		MachineID:    machineID(r.ID),
		FirstBoot:    r.StartedAt.IsZero(),
		Disk:         link.Disk{Device: "vda", Grow: r.Spec.DiskBytes > r.Image.Bytes},
		Modules:      device(disks, modulesDrive),
		TimeUnixNano: time.Now().UnixNano(),
		Entropy:      make([]byte, 64),
		Init:         link.InitMode(r.Spec.Init),
		HostKey:      r.HostKey.Private,
		Exec:         execDefaults(r),
	}
	if r.Backend == api.BackendOverlay {
		c.Disk.Upper, c.Disk.Grow = "vdb", false
	}
	rand.Read(c.Entropy) // never fails: it ends the program instead
	if r.Spec.Net == api.NetNone {
		return c, nil
	}
	addr, err := netip.ParseAddr(r.Lease.Address)
	if err != nil {
		return c, fmt.Errorf("boot configuration: %w", err)
	}
	gateway, err := netip.ParseAddr(r.Lease.Gateway)
	if err != nil {
		return c, fmt.Errorf("boot configuration: %w", err)
	}
	c.Network = &link.Network{
		MAC:       r.Lease.MAC,
		Addresses: []netip.Prefix{netip.PrefixFrom(addr, r.Lease.Prefix)},
		Gateway:   gateway,
		MTU:       mtu,
		DNS:       []netip.Addr{gateway},
		Search:    []string{"vm"},
	}
	return c, nil
}

// execDefaults are the image's, and before them the VM's own. A record that an
// earlier banger wrote may have of the image what no process can have.
func execDefaults(r *Record) link.ExecDefaults {
	d := link.ExecDefaults{User: first(r.Spec.User, r.Image.User), Dir: r.Spec.WorkDir}
	for _, e := range r.Image.Env {
		if api.CheckEnv(e) == nil {
			d.Env = append(d.Env, e)
		}
	}
	d.Env = append(d.Env, r.Spec.Env...)
	if d.Dir == "" && r.Image.WorkDir != "" {
		d.Dir = path.Join("/", strings.ReplaceAll(r.Image.WorkDir, "\x00", ""))
	}
	return d
}

// machineID derives the guest's machine id from the VM's: the same at every
// start, another in every VM, and of the form that machine-id(5) asks for, that
// of a random UUID.
func machineID(id string) string {
	sum := sha256.Sum256([]byte("machine id of " + id))
	sum[6] = sum[6]&0x0f | 0x40
	sum[8] = sum[8]&0x3f | 0x80
	return hex.EncodeToString(sum[:16])
}

func first(words ...string) string {
	for _, w := range words {
		if w != "" {
			return w
		}
	}
	return ""
}
