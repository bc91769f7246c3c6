// Package link is what host and guest say to each other over vsock: the types,
// their bounds, and the client that the daemon and the CLI use.
//
// A guest that starts dials the host once:
//
//	guest                                   host
//	  |-- connect CID 2, HelloPort ---------->|
//	  |-- Hello ----------------------------->|  ReadHello
//	  |<------------------------------ Boot --|  SendBoot
//	  |   (root disk, network, agent)         |
//	  |-- Ready (or Failed) ----------------->|  ReadReady
//
// From then on the guest's agent listens on AgentPort. Each connection carries
// one request; its end is the end of the request:
//
//	client                                 agent
//	  |-- Request {exec} -------------------->|
//	  |<--------------------------- Started --|   or Failed, or Exit 126, 127
//	  |-- Stdin, StdinEOF, Resize, Signal --->|
//	  |<------------ Stdout, Stderr, Window --|
//	  |<------------------------------ Exit --|
//
//	  |-- Request {copy in} ----------------->|
//	  |-- Entry, Chunk, ..., Done ----------->|
//	  |<---------------------------- Answer --|
//
//	  |-- Request {copy out} ---------------->|
//	  |<----------- Entry, Chunk, ..., Done --|
//
//	  |-- Request {dial} -------------------->|
//	  |<---------------------------- Answer --|
//	  |<-- the bytes of a TCP connection ---->|
//
//	  |-- Request {stats, shutdown} --------->|
//	  |<---------------------------- Answer --|
//
// Neither side relies on half-closed connections, because Firecracker does not
// forward them. Standard input has a window: a client sends at most
// StdinWindow bytes that the command has not taken yet, so that a signal never
// waits behind input which nobody reads.
//
// All that a guest says is untrusted: every frame is bounded, handshakes end at
// HandshakeTimeout, and text of a guest is escaped before it becomes an error.
package link

import (
	"context"
	"fmt"
	"io"
	"net"
	"time"

	"banger/personas/guest/link/frame"
)

// Ports of AF_VSOCK.
const (
	// HelloPort is where the host listens for a guest that starts.
	HelloPort = 1024
	// AgentPort is where the agent in the guest listens.
	AgentPort = 1025
)

// Bounds of the protocol.
const (
	// HandshakeTimeout bounds the wait for the first answer of an agent.
	HandshakeTimeout = 10 * time.Second
	// StdinWindow is how many bytes of standard input may be under way.
	StdinWindow = 256 << 10
	// HangupGrace is how long a command whose client has gone may live on
	// after SIGHUP, before it is killed.
	HangupGrace = 5 * time.Second
)

// ErrProtocol is wrapped by every error that means: the other side does not
// speak this protocol, or lies.
var ErrProtocol = frame.ErrProtocol

// A Failure is a request that the guest could not do, in the guest's words.
type Failure = frame.Failure

// interruptible makes every read and write of conn end when ctx is done. The
// caller owes a call of the returned function.
func interruptible(ctx context.Context, conn net.Conn) (release func()) {
	stop := context.AfterFunc(ctx, func() {
		// A deadline in the past wakes what blocks now and later.
		_ = conn.SetDeadline(time.Unix(1, 0))
	})
	return func() { stop() }
}

// open sends the request that conn is for, and bounds the wait for the first
// answer.
func open(ctx context.Context, conn net.Conn, w *frame.Writer, req Request) error {
	if err := req.Validate(); err != nil {
		return err
	}
	if err := conn.SetDeadline(time.Now().Add(HandshakeTimeout)); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err // the deadline that was just replaced may have been that of ctx
	}
	return w.JSON(frame.Request, req)
}

// unbound takes back what open has bound: from here on, only ctx says how long.
func unbound(ctx context.Context, conn net.Conn) error {
	if err := conn.SetDeadline(time.Time{}); err != nil {
		return err
	}
	return ctx.Err()
}

// explain prefers the reason of ctx over the timeout that it caused.
func explain(ctx context.Context, doing string, err error) error {
	if err == nil {
		return nil
	}
	if cause := context.Cause(ctx); cause != nil {
		err = cause
	} else if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return fmt.Errorf("%s: %w", doing, err)
}
