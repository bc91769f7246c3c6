// Package qmp talks to a running QEMU over its machine protocol: one command and one
// answer at a time, and events that come whenever they like.
//
//	us   <- QEMU   {"QMP": ...}                               greeting
//	us   -> QEMU   {"execute":"qmp_capabilities"}             leave negotiation
//	us   <- QEMU   {"return":{}}
//	us   -> QEMU   {"execute":"stop"}
//	us   <- QEMU   {"event":"STOP", ...}                      at any time
//	us   <- QEMU   {"return":{}} or {"error":{"class","desc"}}
//
// The QEMU may have been taken over by its guest. What it sends is bounded and checked,
// and nothing it sends can do more than fail the command at hand.
package qmp

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// maxLine bounds one message of QEMU. The longest that is asked for, the statistics of
// all drives, takes some kilobytes.
const maxLine = 256 << 10

// ErrClosed means that QEMU has gone, or that the conversation broke and was ended.
var ErrClosed = errors.New("qmp connection closed")

// Error is a command that QEMU refused.
type Error struct {
	Command string
	// Class is QEMU's kind of error, Desc its words for people.
	Class string
	Desc  string
}

// Error implements error.
func (e *Error) Error() string { return fmt.Sprintf("qmp %s: %s", e.Command, e.Desc) }

// Event is something that happened in QEMU.
type Event struct {
	Name string          `json:"event"`
	Data json.RawMessage `json:"data"`
}

// message is anything that QEMU sends. Which one it is shows in the field that is there.
type message struct {
	Greeting json.RawMessage `json:"QMP"`
	Return   json.RawMessage `json:"return"`
	Failure  *struct {
		Class string `json:"class"`
		Desc  string `json:"desc"`
	} `json:"error"`
	Event
}

// Conn is a conversation with one QEMU. It is safe for concurrent use.
type Conn struct {
	conn    *net.UnixConn
	onEvent func(Event)
	answers chan message
	// done is closed when the reader has ended.
	done chan struct{}

	// mu is held over a command and its answer: it is what keeps them together.
	mu    sync.Mutex
	ready bool
}

// New talks over conn and owns it from now on. onEvent, which may be nil, is called for
// each event in order and must not block or talk to QEMU. The caller closes the Conn.
func New(conn *net.UnixConn, onEvent func(Event)) *Conn {
	c := &Conn{conn: conn, onEvent: onEvent, answers: make(chan message, 1), done: make(chan struct{})}
	go c.read()
	return c
}

// Close ends the conversation. QEMU goes on.
func (c *Conn) Close() error {
	err := c.conn.Close()
	<-c.done
	return err
}

// Done is closed when the conversation has ended, by either side.
func (c *Conn) Done() <-chan struct{} { return c.done }

// Handshake waits for the greeting and makes QEMU ready for commands. QEMU answers it once
// the machine is made: an error in its command line shows here as ErrClosed.
func (c *Conn) Handshake(ctx context.Context) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	m, err := c.next(ctx)
	if err != nil {
		return fmt.Errorf("greet qemu: %w", err)
	}
	if m.Greeting == nil {
		c.conn.Close()
		return fmt.Errorf("greet qemu: unexpected message")
	}
	c.ready = true
	return c.executeLocked(ctx, "qmp_capabilities", nil, nil, nil)
}

// Execute runs command with arguments, which may be nil, and decodes what it returns into
// out, which may be nil. A refusal is an *Error. When ctx ends first the conversation is
// over: the late answer would be taken for that of the next command.
func (c *Conn) Execute(ctx context.Context, command string, arguments, out any) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.executeLocked(ctx, command, arguments, out, nil)
}

// ExecuteWithFile is Execute with file sent along, for the command getfd or add-fd.
func (c *Conn) ExecuteWithFile(ctx context.Context, command string, arguments, out any, file *os.File) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.executeLocked(ctx, command, arguments, out, unix.UnixRights(int(file.Fd())))
}

func (c *Conn) executeLocked(ctx context.Context, command string, arguments, out any, rights []byte) error {
	if !c.ready {
		return fmt.Errorf("qmp %s: %w", command, ErrClosed)
	}
	line, err := json.Marshal(struct {
		Execute   string `json:"execute"`
		Arguments any    `json:"arguments,omitempty"`
	}{command, arguments})
	if err != nil {
		return fmt.Errorf("encode qmp %s: %w", command, err)
	}
	line = append(line, '\n')
	if n, _, err := c.conn.WriteMsgUnix(line, rights, nil); err != nil || n != len(line) {
		c.conn.Close()
		return fmt.Errorf("qmp %s: %w", command, ErrClosed)
	}
	m, err := c.next(ctx)
	switch {
	case err != nil:
		c.conn.Close()
		return fmt.Errorf("qmp %s: %w", command, err)
	case m.Failure != nil:
		return &Error{Command: command, Class: m.Failure.Class, Desc: m.Failure.Desc}
	case m.Return == nil:
		c.conn.Close()
		return fmt.Errorf("qmp %s: unexpected answer", command)
	case out == nil:
		return nil
	}
	if err := json.Unmarshal(m.Return, out); err != nil {
		return fmt.Errorf("decode qmp %s: %w", command, err)
	}
	return nil
}

// next is the next message that is no event.
func (c *Conn) next(ctx context.Context) (message, error) {
	select {
	case m := <-c.answers:
		return m, nil
	case <-c.done:
	case <-ctx.Done():
		return message{}, context.Cause(ctx)
	}
	// The last answer may have come just before the end.
	select {
	case m := <-c.answers:
		return m, nil
	default:
		return message{}, ErrClosed
	}
}

// read hands on what comes until the connection ends. A second answer where one was asked
// for ends it: QEMU is not itself any more.
func (c *Conn) read() {
	defer close(c.done)
	defer c.conn.Close()
	in := bufio.NewReaderSize(c.conn, 4<<10)
	for {
		line, err := readLine(in)
		if err != nil {
			return
		}
		var m message
		if err := json.Unmarshal(line, &m); err != nil {
			return
		}
		if m.Name != "" {
			if c.onEvent != nil {
				c.onEvent(m.Event)
			}
			continue
		}
		select {
		case c.answers <- m:
		default:
			return
		}
	}
}

// readLine returns the next line, which is valid until the next call.
func readLine(in *bufio.Reader) ([]byte, error) {
	line, err := in.ReadSlice('\n')
	if !errors.Is(err, bufio.ErrBufferFull) {
		return line, err
	}
	long := append([]byte(nil), line...)
	for errors.Is(err, bufio.ErrBufferFull) {
		if line, err = in.ReadSlice('\n'); len(long)+len(line) > maxLine {
			return nil, fmt.Errorf("message is longer than %d bytes", maxLine)
		}
		long = append(long, line...)
	}
	return long, err
}
