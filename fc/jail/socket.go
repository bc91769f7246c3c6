package jail

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// apiName is the API socket's name in the run directory.
const apiName = "api.sock"

// vsockName is the name in there at which the VMM is told to listen for connections to
// the guest.
const vsockName = "v.sock"

// awaitAPI waits until the VMM listens on its API socket, proves that it is the VM's
// who does, and gives the socket to the owner. It looks again after sleeps that are a
// quarter of the time that it waits already: there is no event for listen(2), and to
// close an inotify descriptor, which would tell of bind(2), takes the kernel up to 20 ms.
func (p *Process) awaitAPI(ctx context.Context, s *Spec) error {
	for pause := 100 * time.Microsecond; ; pause = min(pause+pause/4, time.Millisecond) {
		sock, err := p.listening()
		if err == nil {
			defer sock.Close()
			if s.Shared {
				return giveSocket(sock, s.OwnerUID, os.Getegid(), 0o660)
			}
			return giveSocket(sock, s.OwnerUID, s.OwnerGID, 0o600)
		}
		if !errors.Is(err, os.ErrNotExist) && !errors.Is(err, unix.ECONNREFUSED) {
			return err
		}
		select {
		case <-p.exited:
			return fmt.Errorf("wait for API socket: %w with %s", ErrExited, p.exit)
		case <-ctx.Done():
			return fmt.Errorf("wait for API socket: %w", waitError(ctx))
		case <-time.After(pause):
		}
	}
}

// listening returns the API socket once the VM listens on it.
func (p *Process) listening() (*os.File, error) {
	sock, err := p.openSocket(apiName, p.record.UID)
	if err != nil {
		return nil, err
	}
	conn, err := connect(sock)
	if err != nil {
		err = fmt.Errorf("connect to API socket: %w", err)
	} else {
		err = p.provePeer(conn)
		conn.Close()
	}
	if err != nil {
		sock.Close()
		return nil, err
	}
	return sock, nil
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
	name := fmt.Sprintf("%s_%d", vsockName, port)
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
