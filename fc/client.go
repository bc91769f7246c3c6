package fc

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"time"
)

// maxAnswer bounds one answer of a VMM, header and body: a VMM that was taken over must
// not be able to fill the memory of the one who asks.
const maxAnswer = 1 << 20

// ErrNoConnection is what a Client says whose connection is gone and that cannot dial.
var ErrNoConnection = errors.New("no connection to the VMM")

// Client asks one VMM, one request after the other, over one kept connection. It is safe
// for concurrent use.
type Client struct {
	dial func(context.Context) (net.Conn, error)

	// mu is held over the talk on conn: it is what keeps request and answer together.
	mu   sync.Mutex
	conn net.Conn
	in   *bufio.Reader
	// budget is what may still be read for the answer at hand.
	budget *io.LimitedReader
}

// NewClient talks over conn, which may be nil, and owns it from now on. With dial, which
// may be nil, a lost connection is made anew for the next request; a request is never
// sent twice. The caller closes the client.
func NewClient(conn net.Conn, dial func(context.Context) (net.Conn, error)) *Client {
	c := &Client{dial: dial}
	if conn != nil {
		c.adopt(conn)
	}
	return c
}

// Close closes the connection. The client is of no use afterwards unless it can dial.
func (c *Client) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.dropLocked()
}

// Do sends r and waits until the VMM has done it. A refusal is an *APIError.
func (c *Client) Do(ctx context.Context, r Request) error {
	method, path := r.Target()
	body, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("encode %s %s: %w", method, path, err)
	}
	return c.talk(ctx, method, path, body, nil)
}

// InstanceInfo asks who the VMM is and what its machine is at.
func (c *Client) InstanceInfo(ctx context.Context) (InstanceInfo, error) {
	return get[InstanceInfo](ctx, c, "/")
}

// Version asks for the VMM's version.
func (c *Client) Version(ctx context.Context) (string, error) {
	v, err := get[Version](ctx, c, "/version")
	return v.Firecracker, err
}

// MachineConfig asks for the machine's size.
func (c *Client) MachineConfig(ctx context.Context) (MachineConfig, error) {
	return get[MachineConfig](ctx, c, "/machine-config")
}

// VMConfig asks for everything that was configured.
func (c *Client) VMConfig(ctx context.Context) (VMConfig, error) {
	return get[VMConfig](ctx, c, "/vm/config")
}

// Balloon asks for the balloon's configuration.
func (c *Client) Balloon(ctx context.Context) (Balloon, error) {
	return get[Balloon](ctx, c, "/balloon")
}

// BalloonStats asks for what the guest last said of its memory.
func (c *Client) BalloonStats(ctx context.Context) (BalloonStats, error) {
	return get[BalloonStats](ctx, c, "/balloon/statistics")
}

func get[T any](ctx context.Context, c *Client, path string) (T, error) {
	var out T
	err := c.talk(ctx, http.MethodGet, path, nil, &out)
	return out, err
}

// talk does one request and one answer. Whatever goes wrong on the connection ends the
// connection, since nobody can tell any more where the next answer begins.
func (c *Client) talk(ctx context.Context, method, path string, body []byte, out any) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.connectLocked(ctx); err != nil {
		return fmt.Errorf("%s %s: %w", method, path, err)
	}
	conn := c.conn
	interrupted := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })
	status, answer, keep, err := c.exchangeLocked(method, path, body)
	if !interrupted() {
		keep = false
		if err != nil {
			err = context.Cause(ctx)
		}
	}
	if err != nil || !keep {
		c.dropLocked()
	}
	if err != nil {
		return fmt.Errorf("%s %s: %w", method, path, err)
	}
	if status/100 != 2 {
		return &APIError{Method: method, Path: path, Status: status, FaultMessage: faultMessage(answer)}
	}
	if out == nil {
		return nil
	}
	if err := json.Unmarshal(answer, out); err != nil {
		return fmt.Errorf("%s %s: decode answer: %w", method, path, err)
	}
	return nil
}

// exchangeLocked needs mu. keep tells whether the connection may carry another request.
func (c *Client) exchangeLocked(method, path string, body []byte) (status int, answer []byte, keep bool, err error) {
	// http.NoBody in place of an empty reader: a GET with a body is refused.
	var in io.Reader = http.NoBody
	if len(body) > 0 {
		in = bytes.NewReader(body)
	}
	req, err := http.NewRequest(method, "http://localhost"+path, in)
	if err != nil {
		return 0, nil, false, err
	}
	req.Header.Set("Accept", "application/json")
	if len(body) > 0 {
		req.Header.Set("Content-Type", "application/json")
	}
	if err := req.Write(c.conn); err != nil {
		return 0, nil, false, err
	}
	c.budget.N = maxAnswer
	resp, err := http.ReadResponse(c.in, req)
	if err != nil {
		return 0, nil, false, c.readError(err)
	}
	answer, err = io.ReadAll(resp.Body)
	// A spent budget looks like the end of an answer that says no length.
	if err != nil || c.budget.N <= 0 {
		return 0, nil, false, c.readError(err)
	}
	return resp.StatusCode, answer, !resp.Close && c.in.Buffered() == 0, nil
}

// readError tells an answer that was too long from one that was cut off.
func (c *Client) readError(err error) error {
	if c.budget.N <= 0 {
		return fmt.Errorf("answer is longer than %d bytes", maxAnswer)
	}
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

func (c *Client) connectLocked(ctx context.Context) error {
	if err := context.Cause(ctx); err != nil {
		return err
	}
	if c.conn != nil {
		return nil
	}
	if c.dial == nil {
		return ErrNoConnection
	}
	conn, err := c.dial(ctx)
	if err != nil {
		return err
	}
	c.adopt(conn)
	return nil
}

func (c *Client) adopt(conn net.Conn) {
	c.conn = conn
	c.budget = &io.LimitedReader{R: conn}
	c.in = bufio.NewReader(c.budget)
}

func (c *Client) dropLocked() error {
	if c.conn == nil {
		return nil
	}
	err := c.conn.Close()
	c.conn, c.in, c.budget = nil, nil, nil
	return err
}

// faultMessage is the reason in a refusal; a body that is no fault is shown as it is, cut.
func faultMessage(body []byte) string {
	var f fault
	if json.Unmarshal(body, &f) == nil {
		if f.Message != "" {
			return f.Message
		}
		if f.Error != "" {
			return f.Error
		}
	}
	const enough = 512
	if len(body) > enough {
		body = body[:enough]
	}
	return string(bytes.ToValidUTF8(bytes.TrimSpace(body), []byte("?")))
}
