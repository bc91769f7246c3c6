package jail

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// apiName is the API socket's name in the run directory.
const apiName = "api.sock"

// awaitAPI waits until the VMM listens on its API socket and gives it to the owner.
func (p *Process) awaitAPI(ctx context.Context, s *Spec) error {
	watch, err := watchDir(p.dir.run)
	if err != nil {
		return err
	}
	defer watch.Close()
	ctx, cancel := context.WithCancelCause(ctx)
	defer interrupt(ctx, watch)()
	var exit sync.WaitGroup
	exit.Go(func() {
		select {
		case <-p.exited:
			cancel(fmt.Errorf("%w with %s", ErrExited, p.exit))
		case <-ctx.Done():
		}
	})
	defer func() { cancel(nil); exit.Wait() }()

	events := make([]byte, 4096)
	for {
		sock, err := p.openSocket(apiName, p.record.UID)
		if err == nil {
			defer sock.Close()
			return p.awaitListen(ctx, sock, s)
		}
		if !errors.Is(err, os.ErrNotExist) {
			return err
		}
		if _, err := watch.Read(events); err != nil {
			if ctx.Err() != nil {
				return fmt.Errorf("wait for API socket: %w", waitError(ctx))
			}
			return fmt.Errorf("wait for API socket: %v", err)
		}
	}
}

// awaitListen connects until somebody listens, proves that this is the VM's, and gives
// the socket its mode and owner. There is no event for
// listen(2), which follows bind(2) at once: hence short sleeps.
func (p *Process) awaitListen(ctx context.Context, sock *os.File, s *Spec) error {
	for pause := 100 * time.Microsecond; ; pause = min(2*pause, 10*time.Millisecond) {
		conn, err := connect(sock)
		if err == nil {
			err = p.provePeer(conn)
			conn.Close()
			if err != nil {
				return err
			}
			break
		}
		if !errors.Is(err, unix.ECONNREFUSED) {
			return fmt.Errorf("connect to API socket: %w", err)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for API socket: %w", waitError(ctx))
		case <-time.After(pause):
		}
	}
	if s.Shared {
		return giveSocket(sock, s.OwnerUID, os.Getegid(), 0o660)
	}
	return giveSocket(sock, s.OwnerUID, s.OwnerGID, 0o600)
}

// provePeer checks that the listener behind conn has the VM's uid, which only the VMM
// and its children have. The kernel noted it when they began to listen.
func (p *Process) provePeer(conn *os.File) error {
	var cred *unix.Ucred
	err := control(conn, func(fd int) (err error) {
		cred, err = unix.GetsockoptUcred(fd, unix.SOL_SOCKET, unix.SO_PEERCRED)
		return err
	})
	if err != nil {
		return fmt.Errorf("ask who serves the API socket: %v", err)
	}
	if int(cred.Uid) != p.record.UID {
		return fmt.Errorf("API socket is served by uid %d, not by the VM's %d", cred.Uid, p.record.UID)
	}
	return nil
}

// DialAPI returns a new connection to the API socket. The caller closes it.
func (p *Process) DialAPI() (*os.File, error) {
	sock, err := p.openSocket(apiName, -1)
	if err != nil {
		return nil, err
	}
	defer sock.Close()
	conn, err := connect(sock)
	if err != nil {
		return nil, fmt.Errorf("connect to API socket: %w", err)
	}
	return conn, nil
}

// Listen returns a socket that listens for the guest's connections to port: Firecracker
// connects to the vsock socket's name with the port appended. The caller closes it. A
// socket that is left from an earlier call is replaced.
func (p *Process) Listen(port uint32) (*os.File, error) {
	name := fmt.Sprintf("v.sock_%d", port)
	dir := int(p.dir.run.Fd())
	if err := unix.Unlinkat(dir, name, 0); err != nil && err != unix.ENOENT {
		return nil, fmt.Errorf("remove old socket of port %d: %v", port, err)
	}
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("listen on port %d: %v", port, err)
	}
	f := os.NewFile(uintptr(fd), name)
	if err := p.bind(fd, name); err != nil {
		f.Close()
		return nil, fmt.Errorf("listen on port %d: %w", port, err)
	}
	return f, nil
}

// bind binds fd to name in the run directory and gives the socket to the VMM. The path
// goes through the descriptor: that is short enough for a socket address always, and
// bind(2) does not follow a link in the last component.
func (p *Process) bind(fd int, name string) error {
	if err := unix.Bind(fd, &unix.SockaddrUnix{Name: fdPath(p.dir.run) + "/" + name}); err != nil {
		return err
	}
	if err := unix.Listen(fd, 128); err != nil {
		return err
	}
	sock, err := p.openSocket(name, os.Geteuid())
	if err != nil {
		return err
	}
	defer sock.Close()
	return giveSocket(sock, p.record.UID, -1, 0o600)
}

// openSocket returns an O_PATH descriptor of a socket in the run directory, where the
// VMM can plant whatever it likes: links are not followed, and the socket must belong
// to uid unless that is negative.
func (p *Process) openSocket(name string, uid int) (*os.File, error) {
	fd, err := unix.Openat(int(p.dir.run.Fd()), name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", name, err)
	}
	f := os.NewFile(uintptr(fd), name)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		f.Close()
		return nil, fmt.Errorf("look at %s: %v", name, err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFSOCK || (uid >= 0 && int(st.Uid) != uid) {
		f.Close()
		return nil, fmt.Errorf("open %s: not a socket of uid %d", name, uid)
	}
	return f, nil
}

// giveSocket sets mode and owner of the socket that sock names.
func giveSocket(sock *os.File, uid, gid int, mode uint32) error {
	if err := unix.Chmod(fdPath(sock), mode); err != nil {
		return fmt.Errorf("set mode of %s: %v", sock.Name(), err)
	}
	if err := unix.Fchownat(int(sock.Fd()), "", uid, gid, unix.AT_EMPTY_PATH); err != nil {
		return fmt.Errorf("set owner of %s: %v", sock.Name(), err)
	}
	return nil
}

// connect connects to the socket that an O_PATH descriptor names.
func connect(sock *os.File) (*os.File, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	if err := unix.Connect(fd, &unix.SockaddrUnix{Name: fdPath(sock)}); err != nil {
		return nil, errors.Join(err, unix.Close(fd))
	}
	return os.NewFile(uintptr(fd), sock.Name()), nil
}

// SendCtrlAltDel asks the guest to shut down, with the one request of Firecracker's
// API that this package knows.
func (p *Process) SendCtrlAltDel(ctx context.Context) error {
	conn, err := p.DialAPI()
	if err != nil {
		return err
	}
	defer conn.Close()
	defer interrupt(ctx, conn)()
	const body = `{"action_type":"SendCtrlAltDel"}`
	_, err = fmt.Fprintf(conn, "PUT /actions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
	if err != nil {
		return fmt.Errorf("send ctrl-alt-del: %w", err)
	}
	// The status line is enough, and it comes in one piece.
	line := make([]byte, 256)
	n, err := conn.Read(line)
	if err != nil {
		return fmt.Errorf("send ctrl-alt-del: %w", err)
	}
	if status, _, _ := bytes.Cut(line[:n], []byte("\r\n")); !bytes.HasPrefix(status, []byte("HTTP/1.1 204")) {
		return fmt.Errorf("send ctrl-alt-del: VMM answered %q", status)
	}
	return nil
}

// watchDir returns a descriptor that is readable when a file has come into dir.
func watchDir(dir *os.File) (*os.File, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("watch run directory: %v", err)
	}
	if _, err := unix.InotifyAddWatch(fd, fdPath(dir), unix.IN_CREATE|unix.IN_MOVED_TO|unix.IN_ONLYDIR); err != nil {
		return nil, errors.Join(fmt.Errorf("watch run directory: %v", err), unix.Close(fd))
	}
	return os.NewFile(uintptr(fd), "inotify"), nil
}

// fdPath names the file behind a descriptor, however long or gone its path is.
func fdPath(f *os.File) string { return fmt.Sprintf("/proc/self/fd/%d", f.Fd()) }

// control calls do with the descriptor of f.
func control(f *os.File, do func(fd int) error) error {
	rc, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var derr error
	if err := rc.Control(func(fd uintptr) { derr = do(int(fd)) }); err != nil {
		return err
	}
	return derr
}
