// Package daemon is bangerd: it runs as the owner, without any right, and
// orchestrates: VMs, images, kernels, what is on disks, names. It is the only
// writer of the store. Whatever needs root it asks of the helper, in the words
// of package ops.
package daemon

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"banger/ops"
	"banger/personas"
	"banger/personas/daemon/catalog"
	"banger/personas/daemon/vm"
	"banger/personas/guest/binary"
	"banger/store"
	storedisk "banger/store/disk"
)

// idleLimit is how long a standalone daemon stays without a VM that runs and
// without a client, unless it is told otherwise.
const idleLimit = time.Minute

// Daemon is bangerd, wired.
type Daemon struct {
	ctx     context.Context // ends with the daemon; connections that HTTP has given away look at it
	log     *slog.Logger
	home    string        // of the owner, where the configuration is; empty has none
	idle    time.Duration // without a VM that runs and without a client, after which it may leave
	store   *store.Store
	helper  *ops.Client
	vms     *vm.Set
	images  *catalog.Catalog[catalog.Image]
	kernels *catalog.Catalog[catalog.Kernel]
	initrds *initrds
	clients clients
	given   sync.WaitGroup // connections that HTTP has given away, and that are still served

	// probeDisks finds the disk backends that work in the store, once.
	probeDisks func() []storedisk.Finding
}

// Main is the role's entry: it returns the exit code.
func Main(args []string) int {
	personas.SetName("bangerd")
	log := personas.NewLog(os.Stderr)
	if err := run(log, args); err != nil {
		log.Error("stop", "error", err)
		return 1
	}
	return 0
}

func run(log *slog.Logger, args []string) error {
	if os.Geteuid() == 0 {
		return errors.New("bangerd never runs as root; \"sudo banger\" starts it as you")
	}
	fs := flag.NewFlagSet("bangerd", flag.ContinueOnError)
	fs.SetOutput(io.Discard)
	standalone := fs.Bool("standalone", false, "")
	stateDir := fs.String("state-dir", "", "")
	idle := fs.Duration("idle", idleLimit, "")
	fs.Int("owner-uid", os.Getuid(), "")
	fs.Int("owner-gid", os.Getgid(), "")
	if err := fs.Parse(args); err != nil {
		return fmt.Errorf("arguments: %w", err)
	}
	if !filepath.IsAbs(*stateDir) {
		return errors.New("arguments: --state-dir must be an absolute path")
	}
	if *idle <= 0 {
		return errors.New("arguments: --idle must be longer than nothing")
	}
	unix.Umask(0o077)
	ctx, stop := personas.Context()
	defer stop()
	l, err := personas.Listener()
	if err != nil {
		return err
	}
	var listener unixListener = l
	var leave func() (bool, error) // an installed one stays
	if *standalone {
		door, err := personas.NewDoor(l)
		if err != nil {
			return err
		}
		listener, leave = door, func() (bool, error) { return door.Leave(*idle) }
	}
	d, err := open(ctx, log, *stateDir)
	if err != nil {
		listener.Close()
		return err
	}
	defer d.store.Close()
	d.idle = *idle
	if err := d.settle(); err != nil {
		log.Warn("read the owner's configuration, ignoring until a VM is made", "error", err)
	}
	return d.serve(ctx, listener, leave)
}

// open reads the store. It touches nothing outside it.
func open(ctx context.Context, log *slog.Logger, dir string) (d *Daemon, err error) {
	d = &Daemon{log: log, idle: idleLimit, helper: ops.NewClient(ops.SocketPath)}
	if d.store, err = store.Open(dir); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			d.store.Close()
		}
	}()
	d.initrds = &initrds{dir: filepath.Join(dir, "initrds"), open: binary.Open, made: make(map[string]string)}
	if err := os.MkdirAll(d.initrds.dir, 0o700); err != nil {
		return nil, fmt.Errorf("open store: %w", err)
	}
	d.probeDisks = sync.OnceValue(func() []storedisk.Finding { return probeBackends(log, d.store.TempDir()) })
	d.vms = &vm.Set{Helper: d.helper, Log: log, Records: store.Kind[vm.Record](d.store, "vms"), BootFiles: d.bootFiles}
	damaged, err := d.vms.Load(ctx)
	if d.report(damaged); err != nil {
		return nil, err
	}
	d.images, damaged, err = catalog.Open("image", store.Kind[catalog.Image](d.store, "images"), d.vms.Uses)
	if d.report(damaged); err != nil {
		return nil, err
	}
	d.kernels, damaged, err = catalog.Open("kernel", store.Kind[catalog.Kernel](d.store, "kernels"), d.vms.Uses)
	d.report(damaged)
	return d, err
}

// report tells of damaged records, beside which a daemon starts: they are kept
// for whoever can mend them.
func (d *Daemon) report(damaged []store.Damage) {
	for _, r := range damaged {
		d.log.Error("leave a damaged record alone", "folder", r.Path, "error", r.Err)
	}
}

// serve answers until ctx is done, or until leave, which may be nil, has said
// that nobody comes any more.
func (d *Daemon) serve(ctx context.Context, l unixListener, leave func() (bool, error)) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	d.ctx = ctx
	d.clients.last.Store(time.Now().UnixNano())
	if err := d.vms.Reconcile(ctx); err != nil {
		d.log.Warn("reconcile with helper, ignoring", "error", err)
	}
	server := &http.Server{
		Handler:           d.handler(),
		ConnState:         d.clients.note,
		ReadHeaderTimeout: 5 * time.Second,
		MaxHeaderBytes:    16 << 10,
		ErrorLog:          slog.NewLogLogger(d.log.Handler(), slog.LevelWarn),
	}
	var tasks sync.WaitGroup
	tasks.Go(func() { d.resolve(ctx) })
	tasks.Go(d.pruneInitrds)
	tasks.Go(func() { d.stayInTouch(ctx, cancel, leave) })
	tasks.Go(func() {
		<-ctx.Done()
		grace, done := context.WithTimeout(context.Background(), shutdownGrace)
		defer done()
		if err := server.Shutdown(grace); err != nil {
			server.Close() // ends their contexts
		}
	})
	d.log.Info("ready", "state", d.store.Dir, "vms", len(d.vms.List()))
	err := server.Serve(onlyOwner{l})
	ended := ctx.Err() != nil
	cancel()
	tasks.Wait() // for the last answers, too
	if !endsWithin(&d.given, shutdownGrace) {
		// A read of a file system that does not answer, say. It ends with the process.
		d.log.Warn("a connection does not end, leaving it")
	}
	d.vms.Close()
	if ended {
		return nil
	}
	return err
}

// shutdownGrace is how long requests that are under way may take when the
// daemon ends, and then what they have left behind.
const shutdownGrace = 5 * time.Second

// endsWithin waits for tasks, but no longer than limit, and tells whether they
// have ended.
func endsWithin(tasks *sync.WaitGroup, limit time.Duration) bool {
	ended := make(chan struct{})
	go func() { tasks.Wait(); close(ended) }()
	select {
	case <-ended:
		return true
	case <-time.After(limit):
		return false
	}
}

// stayInTouch says hello to the helper, which leaves when nobody does for as long
// as the daemon itself may be idle, takes over what runs where that could not be done
// at the start, and ends a daemon that nobody needs.
func (d *Daemon) stayInTouch(ctx context.Context, end context.CancelFunc, leave func() (bool, error)) {
	tick := time.NewTicker(min(helloEvery, max(d.idle/6, time.Millisecond)))
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		_, _, err := ops.Hello.Call(ctx, d.helper, ops.None{})
		if err == nil {
			err = d.vms.Reconcile(ctx) // which may have failed, and no VM was asked for since
		}
		if err != nil && ctx.Err() == nil {
			d.log.Warn("stay in touch with helper, ignoring", "error", err)
		}
		if leave == nil || d.clients.idle() < d.idle || d.vms.Running() > 0 {
			continue
		}
		left, err := leave()
		if err != nil {
			d.log.Warn("leave, ignoring", "error", err)
		}
		if left {
			d.log.Info("leave", "idle", d.idle)
			end()
			return
		}
	}
}

const helloEvery = 10 * time.Second

// unixListener is a *net.UnixListener, or a door.
type unixListener interface {
	net.Listener
	AcceptUnix() (*net.UnixConn, error)
}

// onlyOwner accepts connections of the owner and of root alone. The socket's
// mode says the same; this holds when the mode is wrong.
type onlyOwner struct{ unixListener }

func (l onlyOwner) Accept() (net.Conn, error) {
	for {
		conn, err := l.AcceptUnix()
		if err != nil {
			return nil, err
		}
		if uid, err := personas.PeerUID(conn); err == nil && (uid == 0 || uid == os.Getuid()) {
			return conn, nil
		}
		conn.Close()
	}
}
