package link

import (
	"context"
	"errors"
	"fmt"
	"net"

	"banger/personas/guest/link/frame"
)

// DialRequest asks for a connection to a TCP port of the guest's loopback: it
// needs no route to the guest, and none in it.
type DialRequest struct {
	Port uint16 `json:"port"`
}

// DialReply is the answer to a DialRequest. Without Refused, what follows on the
// connection are the bytes of the stream and nothing else, in both directions.
type DialReply struct {
	// Refused says that nobody listens on the port.
	Refused bool `json:"refused,omitempty"`
}

// ErrRefused says that nobody in the guest listens on a port.
var ErrRefused = errors.New("connection refused")

// Dial joins conn with a TCP port of the guest. On success conn is the stream, and
// stays the caller's; its two directions end together. After an error conn is
// closed; it is ErrRefused where nobody listens. Dial ends with ctx, and at the
// latest after HandshakeTimeout.
func Dial(ctx context.Context, conn net.Conn, port uint16) error {
	err := dial(ctx, conn, port)
	if err != nil {
		conn.Close()
	}
	return explain(ctx, fmt.Sprintf("connect to port %d of the guest", port), err)
}

func dial(ctx context.Context, conn net.Conn, port uint16) error {
	defer interruptible(ctx, conn)()
	if err := open(ctx, conn, frame.NewWriter(conn), Request{Dial: &DialRequest{Port: port}}); err != nil {
		return err
	}
	var reply DialReply
	if err := frame.NewReader(conn).Expect(frame.Answer, &reply); err != nil {
		return err
	}
	if reply.Refused {
		return ErrRefused
	}
	return unbound(ctx, conn)
}
