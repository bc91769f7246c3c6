package talk

import (
	"bufio"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"
	"syscall"
	"time"
)

// Client is the machine's side of the talk.
type Client struct {
	conn io.ReadWriteCloser
	send sender
	// BootID is that of the host's kernel when the talk began.
	BootID string

	done chan struct{} // closed when the talk is over

	// mu guards the fields that follow.
	mu       sync.Mutex
	err      error // why the talk is over
	next     uint64
	commands map[uint64]*Process
}

// Streams are the ends of a command's streams at the machine. Those that are
// nil are empty, or are thrown away.
type Streams struct {
	Stdin          io.Reader
	Stdout, Stderr io.Writer
}

// Process is a command that was started.
type Process struct {
	client  *Client
	id      uint64
	streams Streams
	ended   chan struct{} // closed after end was set
	end     exit
}

// How long to wait for an answer before the next hello, at first and at most:
// what is said to a port before the agent has opened it may be lost, and may
// also fill it up.
const (
	firstHello = 200 * time.Millisecond
	lastHello  = 5 * time.Second
)

// Connect begins a talk over conn, which it owns. It waits for the agent until
// ctx ends.
func Connect(ctx context.Context, conn io.ReadWriteCloser) (*Client, error) {
	c := &Client{conn: conn, send: sender{w: conn}, done: make(chan struct{}), commands: map[uint64]*Process{}}
	nonce := rand.Text()
	answered := make(chan string, 1)
	go c.read(nonce, answered)
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	for wait := firstHello; ; wait = min(2*wait, lastHello) {
		if err := c.send.send(message{Hello: &hello{Nonce: nonce}}); err != nil {
			c.Close()
			return nil, fmt.Errorf("greet agent: %w", err)
		}
		select {
		case c.BootID = <-answered:
			return c, nil
		case <-time.After(wait):
		case <-c.done:
			return nil, fmt.Errorf("greet agent: %w", c.err)
		case <-ctx.Done():
			c.Close()
			return nil, fmt.Errorf("greet agent: %w", context.Cause(ctx))
		}
	}
}

// Close ends the talk. Commands that run are told as lost.
func (c *Client) Close() error {
	err := c.conn.Close()
	<-c.done
	return err
}

// Done is closed when the talk is over, as when the host is.
func (c *Client) Done() <-chan struct{} { return c.done }

// read takes the agent's messages until the stream ends.
func (c *Client) read(nonce string, answered chan<- string) {
	lines := bufio.NewScanner(c.conn)
	lines.Buffer(nil, maxLine)
	greeted := false
	for lines.Scan() {
		var m message
		if err := json.Unmarshal(lines.Bytes(), &m); err != nil {
			continue // the rest of an older talk
		}
		switch {
		case m.Hello != nil && m.Hello.Nonce == nonce && !greeted:
			greeted = true
			answered <- m.Hello.BootID
		case greeted && m.Hello == nil:
			c.take(m)
		}
	}
	err := lines.Err()
	if err == nil {
		err = io.EOF
	}
	c.over(fmt.Errorf("talk to agent: %w", err))
}

// take acts on a message about a command.
func (c *Client) take(m message) {
	c.mu.Lock()
	p := c.commands[m.ID]
	if p != nil && m.Exit != nil {
		delete(c.commands, m.ID)
	}
	c.mu.Unlock()
	switch {
	case p == nil:
	case m.Exit != nil:
		p.end = *m.Exit
		close(p.ended)
	case m.Output != nil && m.Output.Stderr && p.streams.Stderr != nil:
		p.streams.Stderr.Write(m.Output.Data)
	case m.Output != nil && !m.Output.Stderr && p.streams.Stdout != nil:
		p.streams.Stdout.Write(m.Output.Data)
	}
}

// over tells everyone who waits that there is nothing to wait for.
func (c *Client) over(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.err = err
	for _, p := range c.commands {
		p.end.Error = err.Error()
		close(p.ended)
	}
	c.commands = nil
	close(c.done)
}

// Start starts a command.
func (c *Client) Start(cmd Command, streams Streams) (*Process, error) {
	c.mu.Lock()
	if c.commands == nil {
		c.mu.Unlock()
		return nil, c.err
	}
	c.next++
	p := &Process{client: c, id: c.next, streams: streams, ended: make(chan struct{})}
	c.commands[p.id] = p
	c.mu.Unlock()
	if err := c.send.send(message{ID: p.id, Start: &cmd}); err != nil {
		return nil, fmt.Errorf("start %q: %w", cmd.Args, err)
	}
	go p.feed()
	return p, nil
}

// feed sends standard input. It may outlive the command, as reading cannot be
// ended; what it then reads is lost.
func (p *Process) feed() {
	buf := make([]byte, chunk)
	for p.streams.Stdin != nil {
		n, err := p.streams.Stdin.Read(buf)
		if n > 0 && p.client.send.send(message{ID: p.id, Input: &input{Data: buf[:n]}}) != nil {
			return
		}
		if err != nil {
			break
		}
	}
	p.client.send.send(message{ID: p.id, Input: &input{End: true}})
}

// Resize tells the size of the command's terminal.
func (p *Process) Resize(size Size) error {
	return p.client.send.send(message{ID: p.id, Resize: &size})
}

// Signal sends a signal to the command's process group.
func (p *Process) Signal(sig syscall.Signal) error {
	return p.client.send.send(message{ID: p.id, Signal: int(sig)})
}

// Done is closed when the command has ended, or its end cannot be known any more.
func (p *Process) Done() <-chan struct{} { return p.ended }

// Wait waits for the end of the command and returns its exit code, which is 128
// and the signal's number where one killed it. If ctx ends first the command is
// killed.
func (p *Process) Wait(ctx context.Context) (int, error) {
	select {
	case <-p.ended:
	case <-ctx.Done():
		p.Signal(syscall.SIGKILL)
		return -1, context.Cause(ctx)
	}
	if p.end.Error != "" {
		return -1, errors.New(p.end.Error)
	}
	return p.end.Code, nil
}
