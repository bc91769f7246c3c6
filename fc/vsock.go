package fc

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// ErrRefused means that the guest has nothing that listens on the port: the VMM closed the
// connection in place of "OK".
var ErrRefused = errors.New("connection refused by the guest")

// maxOK bounds the VMM's answer: "OK ", a port of at most ten digits, a newline.
const maxOK = 3 + 10 + 1

// DialVsock connects to port in the guest through the VMM's vsock socket at path:
//
//	us  -> VMM   CONNECT <port>\n
//	VMM -> us    OK <the port that the VMM chose for us>\n
//
// after which the connection is the guest's. Not a byte beyond the answer is read, so that
// the connection's descriptor may be handed to another process. path may name a socket
// through /proc/self/fd/N. A port on which nobody listens is ErrRefused.
func DialVsock(ctx context.Context, path string, port uint32) (*net.UnixConn, error) {
	var d net.Dialer
	c, err := d.DialContext(ctx, "unix", path)
	if err != nil {
		return nil, fmt.Errorf("dial vsock port %d: %w", port, err)
	}
	conn := c.(*net.UnixConn)
	if err := connect(ctx, conn, port); err != nil {
		conn.Close()
		return nil, fmt.Errorf("dial vsock port %d: %w", port, err)
	}
	return conn, nil
}

func connect(ctx context.Context, conn *net.UnixConn, port uint32) error {
	interrupted := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })
	err := handshake(conn, port)
	if !interrupted() {
		// The deadline is set, or about to be: the connection is spoilt either way.
		return context.Cause(ctx)
	}
	return err
}

func handshake(conn io.ReadWriter, port uint32) error {
	if _, err := fmt.Fprintf(conn, "CONNECT %d\n", port); err != nil {
		return refused(err)
	}
	line, err := readLine(conn)
	if err != nil {
		return refused(err)
	}
	digits, ok := strings.CutPrefix(line, "OK ")
	if !ok {
		return fmt.Errorf("unexpected answer %q", line)
	}
	if _, err := strconv.ParseUint(digits, 10, 32); err != nil {
		return fmt.Errorf("unexpected answer %q", line)
	}
	return nil
}

// readLine reads byte by byte: what follows the newline belongs to whoever gets the
// connection. The answer is some ten bytes, once per connection.
func readLine(r io.Reader) (string, error) {
	var line [maxOK]byte
	for n := range line {
		if _, err := io.ReadFull(r, line[n:n+1]); err != nil {
			return "", err
		}
		if line[n] == '\n' {
			return string(line[:n]), nil
		}
	}
	return "", fmt.Errorf("answer is longer than %d bytes", maxOK)
}

// refused makes ErrRefused of a connection that the VMM closed.
func refused(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) {
		return ErrRefused
	}
	return err
}
