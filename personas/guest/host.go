package guest

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"time"

	"github.com/mdlayher/vsock"
	"golang.org/x/sys/unix"

	"banger/personas/guest/link"
	"banger/personas/guest/link/frame"
)

// redial is the time between two tries to reach the host. There is no event for
// a transport that comes up.
const redial = 5 * time.Millisecond

// A host is the connection on which this guest was configured.
type host struct {
	conn net.Conn
	file func() (*os.File, error)
	r    *frame.Reader
	w    *frame.Writer
}

// dialHost reaches the host over vsock.
func dialHost(ctx context.Context) (*host, error) {
	for {
		conn, err := vsock.Dial(vsock.Host, link.HelloPort, nil)
		if err == nil {
			return newHost(conn, func() (*os.File, error) { return duplicate(conn) }), nil
		}
		select {
		case <-time.After(redial):
		case <-ctx.Done():
			return nil, fmt.Errorf("dial host: %w", err)
		}
	}
}

func newHost(conn net.Conn, file func() (*os.File, error)) *host {
	return &host{conn: conn, file: file, r: frame.NewReader(conn), w: frame.NewWriter(conn)}
}

// hello says who has started, and returns what to become.
func (h *host) hello(ctx context.Context, who link.Hello) (config link.BootConfig, err error) {
	if deadline, ok := ctx.Deadline(); ok {
		if err := h.conn.SetDeadline(deadline); err != nil {
			return config, err
		}
	}
	if err := h.w.JSON(frame.Hello, who); err != nil {
		return config, fmt.Errorf("say hello: %w", err)
	}
	t, payload, err := h.r.Next()
	switch {
	case err == io.EOF:
		return config, fmt.Errorf("receive boot configuration: %w", io.ErrUnexpectedEOF)
	case err != nil:
		return config, fmt.Errorf("receive boot configuration: %w", err)
	case t != frame.Boot:
		return config, fmt.Errorf("receive boot configuration: %w", frame.Unexpected(t))
	}
	if err := frame.DecodeStrict(payload, &config); err != nil {
		return config, err
	}
	return config, config.Validate()
}

// fail tells the host why there will be no guest.
func (h *host) fail(err error) {
	_ = h.conn.SetDeadline(time.Now().Add(time.Second))
	_ = h.w.Fail(err) // it is on the console as well
	_ = h.conn.Close()
}

func (h *host) close() { _ = h.conn.Close() }

// duplicate returns another descriptor of the connection.
func duplicate(conn *vsock.Conn) (*os.File, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return nil, err
	}
	fd, dupErr := -1, error(nil)
	err = raw.Control(func(c uintptr) {
		fd, dupErr = unix.FcntlInt(c, unix.F_DUPFD_CLOEXEC, 3)
	})
	if err != nil || dupErr != nil {
		return nil, fmt.Errorf("duplicate connection: %w", firstOf(err, dupErr))
	}
	return os.NewFile(uintptr(fd), "host"), nil
}

func firstOf(a, b error) error {
	if a != nil {
		return a
	}
	return b
}

// listenAgent opens the agent's port. It takes connections from here on, even
// before the agent is there to answer.
func listenAgent() (*os.File, error) {
	fd, err := unix.Socket(unix.AF_VSOCK, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("listen for requests: %w", err)
	}
	f := os.NewFile(uintptr(fd), "agent")
	err = unix.Bind(fd, &unix.SockaddrVM{CID: unix.VMADDR_CID_ANY, Port: link.AgentPort})
	if err == nil {
		err = unix.Listen(fd, 128)
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("listen for requests: %w", err)
	}
	return f, nil
}
