package agent

import (
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"banger/personas/guest/link"
	"banger/personas/guest/link/frame"
)

// dialTimeout bounds the wait for whoever listens to accept.
const dialTimeout = 5 * time.Second

// dial joins conn with a port of the guest's loopback, until one side closes.
func dial(conn net.Conn, w *frame.Writer, req *link.DialRequest) error {
	to, err := dialLoopback(req.Port)
	if errors.Is(err, unix.ECONNREFUSED) {
		return w.JSON(frame.Answer, link.DialReply{Refused: true})
	}
	if err != nil {
		return err
	}
	defer to.Close()
	if err := w.JSON(frame.Answer, link.DialReply{}); err != nil {
		return err
	}
	// The end of one direction is the end of the other: half-closed connections
	// do not exist on vsock. What was read before it has been written.
	ended := make(chan struct{}, 2)
	carry := func(to, from net.Conn) {
		_, _ = io.Copy(to, from)
		ended <- struct{}{}
	}
	go carry(to, conn)
	go carry(conn, to)
	<-ended
	to.Close()
	conn.Close()
	<-ended
	return nil
}

// dialLoopback connects by either protocol. A guest without IPv6 refuses as well.
func dialLoopback(port uint16) (net.Conn, error) {
	d := net.Dialer{Timeout: dialTimeout}
	conn, err := d.Dial("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(int(port))))
	if !errors.Is(err, unix.ECONNREFUSED) {
		return conn, err
	}
	conn, err6 := d.Dial("tcp", net.JoinHostPort("::1", strconv.Itoa(int(port))))
	if err6 != nil {
		return nil, fmt.Errorf("%w, and by IPv6: %v", err, err6)
	}
	return conn, nil
}
