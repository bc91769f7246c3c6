// Package bringup starts the two daemons of banger's standalone mode where they
// do not run.
//
// Only root gets here. The sockets are bound before the daemons are started, so
// a client that connects waits in the queue of the socket and nobody polls:
//
//	/run/banger              0700 owner   bangerd.sock (stream), bangerd.log
//	/run/banger-helper       0711 root    helper.sock (seqpacket), helper.log
//	/run/banger.lock         0600 root    held while anything is brought up
//
// What lies in the owner's directory is made with the owner's rights: a link
// that the owner put there leads root nowhere.
package bringup

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// Host says where the daemons live. Use [Default].
type Host struct {
	DaemonDir, HelperDir string // with the sockets and the logs
	Lock                 string // the lock file
	Exe                  string // the binary that has the roles
	// Idle is how long the daemons stay without being needed. Zero means what
	// they think is right.
	Idle  time.Duration
	Owner func() (Owner, error)
}

// Names of what lies in the directories of a Host.
const (
	daemonSocket = "bangerd.sock"
	daemonLog    = "bangerd.log"
	helperSocket = "helper.sock"
	helperLog    = "helper.log"
)

// Default returns this host's, for a daemon that listens at socket.
func Default(socket string) Host {
	dir := filepath.Dir(socket)
	return Host{
		DaemonDir: dir,
		HelperDir: dir + "-helper",
		Lock:      dir + ".lock",
		Exe:       "/proc/self/exe",
		Owner:     InvokingOwner,
	}
}

// Started tells what Ensure has started.
type Started struct {
	daemon, helper *process
}

// Reach asks a daemon something that has no effect, and starts before what does
// not run. A daemon that leaves while it is asked has not answered, and the next
// one is asked. One that was being killed may still have listened: where something
// had to be started, it is looked once more whether all is there.
func Reach(ctx context.Context, h Host, ask func(context.Context) error) error {
	for tries := 1; ; tries++ {
		started, err := Ensure(ctx, h)
		if err != nil {
			return fmt.Errorf("bring up daemons: %w", err)
		}
		// A listening socket is bound before its daemon is started, so this waits
		// in its queue, and ends when the daemon does.
		if err = ask(ctx); err == nil {
			if tries > 1 || started == (Started{}) || h.complete() {
				return nil
			}
			continue
		}
		err = started.explain(err)
		if !hasLeft(err) || tries == mostTries || ctx.Err() != nil {
			return err
		}
	}
}

// mostTries bounds how often Reach meets a daemon that leaves: one idle minute
// seldom ends in the moment of a call, and not again and again.
const mostTries = 10

// hasLeft reports whether err is of a daemon that is not there, or not any more.
func hasLeft(err error) bool {
	for _, sign := range []error{unix.ENOENT, unix.ECONNREFUSED, unix.ECONNRESET, unix.EPIPE, io.EOF, io.ErrUnexpectedEOF} {
		if errors.Is(err, sign) {
			return true
		}
	}
	return false
}

// Ensure starts what does not run. It returns when all sockets are bound; a
// request to a daemon that was just started waits for it.
func Ensure(ctx context.Context, h Host) (Started, error) {
	if h.complete() {
		return Started{}, nil
	}
	unlock, err := lock(ctx, h.Lock)
	if err != nil {
		return Started{}, err
	}
	defer unlock()
	// Whoever leaves has the lock of his socket's folder to the end.
	for _, dir := range []string{h.DaemonDir, h.HelperDir} {
		unlock, err := lockDir(ctx, dir)
		if err != nil {
			return Started{}, err
		}
		defer unlock()
	}
	var s Started
	daemon, helper := h.alive()
	if daemon && helper {
		return s, nil // somebody else was faster
	}
	owner, err := h.owner(daemon, helper)
	if err != nil {
		return s, err
	}
	if !helper {
		if s.helper, err = h.startHelper(owner); err != nil {
			return s, err
		}
	}
	if !daemon {
		if s.daemon, err = h.startDaemon(owner); err != nil {
			return s, err
		}
	}
	return s, nil
}

func (h Host) daemonSocket() string { return filepath.Join(h.DaemonDir, daemonSocket) }
func (h Host) helperSocket() string { return filepath.Join(h.HelperDir, helperSocket) }

func (h Host) complete() bool {
	daemon, helper := h.alive()
	return daemon && helper
}

// alive reports which of the daemons listen.
func (h Host) alive() (daemon, helper bool) {
	return listens(unix.SOCK_STREAM, h.daemonSocket()), listens(unix.SOCK_SEQPACKET, h.helperSocket())
}

// owner returns whom the daemons shall serve: the owner of the one that runs, or of
// the VMs that both have left behind, else who has called.
func (h Host) owner(daemon, helper bool) (Owner, error) {
	caller, err := h.Owner()
	switch {
	case daemon:
		return caller.or(h.daemonSocket(), err)
	case helper:
		return caller.or(h.helperSocket(), err)
	case h.hasVMs():
		if left, err := caller.or(h.DaemonDir, err); err == nil {
			return left, nil // else their owner is no more
		}
	}
	return caller, err
}

// hasVMs reports whether daemons that were killed may have left VMs running, which
// those of another owner would end: they know of none.
func (h Host) hasVMs() bool {
	jails, err := os.ReadDir(filepath.Join(h.HelperDir, "jails"))
	if err != nil || len(jails) == 0 {
		return false
	}
	_, err = os.Lstat(h.DaemonDir)
	return err == nil
}

// lock takes the lock at path. It waits for whoever brings up the daemons now,
// which takes milliseconds, and no longer than ctx.
func lock(ctx context.Context, path string) (unlock func(), err error) {
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_CREAT|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	return flock(ctx, fd, path)
}

// lockDir takes the lock of a folder, as a daemon does that leaves, and waits for
// the end of one that has it. What is no folder nobody has locked.
func lockDir(ctx context.Context, path string) (unlock func(), err error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err == unix.ENOENT || err == unix.ENOTDIR || err == unix.ELOOP {
		return func() {}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	return flock(ctx, fd, path)
}

// flock locks what fd is open on, and owns fd.
func flock(ctx context.Context, fd int, path string) (unlock func(), err error) {
	taken := make(chan error, 1)
	go func() {
		for {
			err := unix.Flock(fd, unix.LOCK_EX)
			if !errors.Is(err, unix.EINTR) {
				taken <- err
				return
			}
		}
	}()
	select {
	case err := <-taken:
		if err != nil {
			unix.Close(fd)
			return nil, fmt.Errorf("lock %s: %w", path, err)
		}
		return func() { unix.Close(fd) }, nil
	case <-ctx.Done():
		// The goroutine still waits; it gives the lock back once it has it.
		go func() { <-taken; unix.Close(fd) }()
		return nil, fmt.Errorf("lock %s: %w", path, ctx.Err())
	}
}

func (h Host) startHelper(o Owner) (*process, error) {
	if err := ensureDir(h.HelperDir, 0o711, 0, 0); err != nil {
		return nil, err
	}
	sock, err := listen(unix.SOCK_SEQPACKET, h.helperSocket(), root)
	if err != nil {
		return nil, err
	}
	defer sock.Close()
	// The directory is root's, so the name cannot lead elsewhere.
	if err := os.Lchown(h.helperSocket(), o.UID, o.GID); err != nil {
		return nil, fmt.Errorf("give socket to its owner: %w", err)
	}
	return start(h.Exe, launch{
		name:   "banger-helper",
		args:   h.args(o),
		home:   "/root",
		as:     root,
		socket: sock,
		log:    filepath.Join(h.HelperDir, helperLog),
	})
}

func (h Host) startDaemon(o Owner) (*process, error) {
	if err := o.makeState(); err != nil {
		return nil, err
	}
	if err := ensureDir(h.DaemonDir, 0o700, o.UID, o.GID); err != nil {
		return nil, err
	}
	sock, err := listen(unix.SOCK_STREAM, h.daemonSocket(), o.identity())
	if err != nil {
		return nil, err
	}
	defer sock.Close()
	return start(h.Exe, launch{
		name:   "bangerd",
		args:   append(h.args(o), "--state-dir", o.StateDir),
		home:   o.Home,
		as:     o.identity(),
		socket: sock,
		log:    filepath.Join(h.DaemonDir, daemonLog),
	})
}

// args are what both daemons are told.
func (h Host) args(o Owner) []string {
	args := []string{"--standalone", "--owner-uid", strconv.Itoa(o.UID), "--owner-gid", strconv.Itoa(o.GID)}
	if h.Idle > 0 {
		args = append(args, "--idle", h.Idle.String())
	}
	return args
}

// explain says why the daemons do not answer, after asking has failed with err:
// a daemon that failed at its start says so in its log. One that ended in good
// order has only left.
func (s Started) explain(err error) error {
	for _, p := range []*process{s.helper, s.daemon} {
		if p == nil {
			continue
		}
		if why := p.failed(deathWait); why != "" {
			return fmt.Errorf("start %s: %s", p.name, why)
		}
	}
	return err
}

// deathWait is how long explain waits for a process whose socket was closed to
// be gone.
const deathWait = time.Second
