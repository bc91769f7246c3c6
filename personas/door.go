package personas

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Door is the socket of a daemon that comes and goes: who finds it under its name
// is answered, and when the daemon leaves the name is gone before the daemon is.
//
//	open --Leave, nobody came--> shut --the process ends--> (the next daemon's)
//	  ^          | somebody came
//	  +----------+
//
// Whoever starts daemons holds a lock on the socket's folder meanwhile, and so
// does a daemon from the moment that it leaves to its end: no other one is
// started while this one has still what two cannot share.
type Door struct {
	socket *os.File // listening; package net would not say when it accepts
	addr   net.Addr
	path   string
	file   unix.Stat_t // of the socket's name

	// mu is held over each accept: what was taken out of the queue is noted
	// before anybody decides that nobody was there.
	mu   sync.Mutex
	last time.Time // of the last one who came
	shut bool
}

// NewDoor makes l a door. It closes l.
func NewDoor(l *net.UnixListener) (*Door, error) {
	defer l.Close()
	l.SetUnlinkOnClose(false)
	d := &Door{addr: l.Addr(), path: l.Addr().String(), last: time.Now()}
	if err := unix.Lstat(d.path, &d.file); err != nil {
		return nil, fmt.Errorf("find socket %s: %w", d.path, err)
	}
	rc, err := l.SyscallConn()
	if err != nil {
		return nil, fmt.Errorf("take socket %s: %w", d.path, err)
	}
	copied := -1
	cerr := rc.Control(func(fd uintptr) { // which does not block
		copied, err = unix.FcntlInt(fd, unix.F_DUPFD_CLOEXEC, 0)
	})
	if err := errors.Join(cerr, err); err != nil {
		return nil, fmt.Errorf("take socket %s: %w", d.path, err)
	}
	d.socket = os.NewFile(uintptr(copied), d.path)
	return d, nil
}

// Accept implements [net.Listener].
func (d *Door) Accept() (net.Conn, error) { return d.AcceptUnix() }

// AcceptUnix waits for who comes next.
func (d *Door) AcceptUnix() (*net.UnixConn, error) {
	rc, err := d.socket.SyscallConn()
	if err != nil {
		return nil, err
	}
	conn := -1
	rerr := rc.Read(func(fd uintptr) bool {
		d.mu.Lock()
		defer d.mu.Unlock()
		conn, _, err = unix.Accept4(int(fd), unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC)
		d.last = time.Now()
		// One that has gone again is no reason to end.
		return err != unix.EAGAIN && err != unix.EINTR && err != unix.ECONNABORTED
	})
	if rerr != nil {
		return nil, rerr
	}
	if err != nil { // as net has it: a server goes on after what is temporary
		return nil, &net.OpError{Op: "accept", Net: d.addr.Network(), Addr: d.addr, Err: os.NewSyscallError("accept4", err)}
	}
	f := os.NewFile(uintptr(conn), "connection")
	defer f.Close()
	c, err := net.FileConn(f)
	if err != nil {
		return nil, err
	}
	return c.(*net.UnixConn), nil
}

// Addr implements [net.Listener].
func (d *Door) Addr() net.Addr { return d.addr }

// Close shuts the door, whoever waits: the daemon was told to end.
func (d *Door) Close() error { return errors.Join(d.takeName(), d.socket.Close()) }

// Leave shuts the door and reports true if nobody came for as long as quiet, nor
// waits now. After false the caller stays: somebody has come, or is about to.
func (d *Door) Leave(quiet time.Duration) (bool, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if time.Since(d.last) < quiet {
		return false, nil
	}
	lock, err := d.lock(0)
	if err != nil || lock < 0 {
		return false, err
	}
	d.shut, err = d.leaveLocked()
	if !d.shut {
		unix.Close(lock)
	}
	return d.shut, err
}

// leaveLocked needs mu and the lock of the folder.
func (d *Door) leaveLocked() (bool, error) {
	mine, err := d.isMine()
	if err != nil || !mine {
		return err == nil, err // nobody finds the way here any more
	}
	aside := d.path + ".leaving"
	if err := os.Rename(d.path, aside); err != nil {
		return false, err
	}
	// From here on nobody comes, and those who were faster are in the queue.
	if waits, err := d.somebodyWaits(); waits || err != nil {
		return false, errors.Join(err, os.Rename(aside, d.path))
	}
	return true, os.Remove(aside)
}

// takeName gives up after a moment, where somebody starts daemons all the time: a
// name that leads nowhere does no harm.
func (d *Door) takeName() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.shut {
		return nil
	}
	if lock, err := d.lock(lockWait); err != nil || lock < 0 {
		return err
	}
	d.shut = true
	if mine, err := d.isMine(); err != nil || !mine {
		return err
	}
	return os.Remove(d.path)
}

// lockWait is how long Close waits for those who start daemons.
const lockWait = time.Second

// lock locks the socket's folder for this process, until the descriptor is
// closed or the process ends: nobody here keeps it. It returns -1 where others have it for longer than
// wait.
func (d *Door) lock(wait time.Duration) (fd int, err error) {
	fd, err = unix.Open(filepath.Dir(d.path), unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("lock folder of socket: %w", err)
	}
	for begin := time.Now(); ; time.Sleep(5 * time.Millisecond) { // flock has no deadline
		err = unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB)
		switch {
		case err == nil:
			return fd, nil
		case err == unix.EWOULDBLOCK && time.Since(begin) < wait, err == unix.EINTR:
			continue
		}
		unix.Close(fd)
		if err == unix.EWOULDBLOCK {
			return -1, nil
		}
		return -1, fmt.Errorf("lock folder of socket: %w", err)
	}
}

// isMine reports whether the name still leads to this socket.
func (d *Door) isMine() (bool, error) {
	var now unix.Stat_t
	err := unix.Lstat(d.path, &now)
	if err == unix.ENOENT {
		return false, nil
	}
	return err == nil && now.Dev == d.file.Dev && now.Ino == d.file.Ino, err
}

func (d *Door) somebodyWaits() (bool, error) {
	rc, err := d.socket.SyscallConn()
	if err != nil {
		return false, err
	}
	n := 0
	cerr := rc.Control(func(fd uintptr) {
		n, err = unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
	})
	return n > 0, errors.Join(cerr, err)
}
