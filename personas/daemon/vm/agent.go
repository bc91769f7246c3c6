package vm

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"

	"golang.org/x/sys/unix"

	"banger/fc"
)

// vsockName is the VMM's vsock socket in its folder.
const vsockName = "v.sock"

// dialAgent connects to the agent in the guest. The way goes through a
// descriptor, because nobody but the VM's uid may enter the folder by name.
func (m *machine) dialAgent(ctx context.Context, port uint32) (*net.UnixConn, error) {
	sock, err := openSocket(m.run, vsockName)
	if err != nil {
		return nil, fmt.Errorf("reach guest agent: %w", err)
	}
	defer sock.Close()
	conn, err := fc.DialVsock(ctx, fmt.Sprintf("/proc/self/fd/%d", sock.Fd()), port)
	if err != nil {
		return nil, fmt.Errorf("reach guest agent: %w", err)
	}
	return conn, nil
}

// openSocket opens a socket in dir as a path, to be connected to. The folder is
// the VMM's, who may have planted what it likes: a link would lead the owner's
// own rights to a socket of the owner's, so links are not followed.
func openSocket(dir *os.File, name string) (*os.File, error) {
	rc, err := dir.SyscallConn()
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", name, err)
	}
	fd := -1
	cerr := rc.Control(func(at uintptr) {
		fd, err = unix.Openat(int(at), name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	})
	if err := errors.Join(cerr, err); err != nil {
		return nil, fmt.Errorf("open %s: %w", name, err)
	}
	f := os.NewFile(uintptr(fd), name)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		f.Close()
		return nil, fmt.Errorf("open %s: %w", name, err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFSOCK {
		f.Close()
		return nil, fmt.Errorf("open %s: it is no socket", name)
	}
	return f, nil
}
