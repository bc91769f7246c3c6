package ops

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Client performs operations at one helper. Each call has a connection of its
// own, so that calls run side by side, and one that a helper leaves without an answer is
// made once more. It is safe for concurrent use and needs no closing.
type Client struct {
	path string
	slot chan struct{} // one per connection, so that no call meets a full helper
}

// NewClient returns a client of the helper that listens at path. It does not
// connect.
func NewClient(path string) *Client {
	return &Client{path: path, slot: make(chan struct{}, maxConns/2)}
}

type requestIDKey struct{}

// WithRequestID returns a context whose calls carry id: the same id asks for the
// same thing again. A call without one has an id of its own.
func WithRequestID(ctx context.Context, id string) context.Context {
	return context.WithValue(ctx, requestIDKey{}, id)
}

// callTimeout bounds a call, from when it has its turn: a helper gives up an operation
// before, and has time to undo it.
const callTimeout = 2 * opTimeout

func (c *Client) roundTrip(ctx context.Context, op *Decl, args any, files []*os.File, out any) ([]*os.File, error) {
	id, _ := ctx.Value(requestIDKey{}).(string)
	if id == "" {
		id = "call-" + strings.ToLower(rand.Text())
	}
	raw, err := json.Marshal(args)
	if err != nil {
		return nil, fmt.Errorf("helper %s: encode: %w", op.Name, err)
	}
	select {
	case c.slot <- struct{}{}:
		defer func() { <-c.slot }()
	case <-ctx.Done():
		return nil, fmt.Errorf("helper %s: %w", op.Name, ctx.Err())
	}
	caller := ctx
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	req := &request{V: Version, ID: id, Op: op.Name, Args: raw}
	got, err := c.ask(ctx, req, files, op.FilesOut, out)
	if hungUp(err) && ctx.Err() == nil {
		got, err = c.ask(ctx, req, files, op.FilesOut, out) // by its id it is the same request
	}
	if err != nil && ctx.Err() != nil {
		return nil, fmt.Errorf("helper %s: %w", op.Name, ended(caller))
	}
	var refused *Error
	if errors.As(err, &refused) {
		refused.Op = op.Name
		return nil, refused
	}
	if err != nil {
		return nil, fmt.Errorf("helper %s: %w", op.Name, err)
	}
	return got, nil
}

// ended says why a call has ended whose context is done: by its caller, or by a helper
// that does not answer.
func ended(caller context.Context) error {
	if err := caller.Err(); err != nil {
		return err
	}
	return fmt.Errorf("no answer within %v: %w", callTimeout, os.ErrDeadlineExceeded)
}

// hungUp reports whether the helper has ended a connection without an answer: it was
// killed, perhaps, and is started anew.
func hungUp(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, unix.ECONNRESET) || errors.Is(err, unix.EPIPE)
}

// ask makes a connection for one request.
func (c *Client) ask(ctx context.Context, req *request, files []*os.File, filesOut int, out any) ([]*os.File, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unixpacket", c.path)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	uc := conn.(*net.UnixConn)
	stop := context.AfterFunc(ctx, func() { uc.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	return exchange(uc, req, files, filesOut, out)
}

func exchange(conn *net.UnixConn, req *request, files []*os.File, filesOut int, out any) ([]*os.File, error) {
	if err := send(conn, req, files, MaxRequest); err != nil {
		return nil, fmt.Errorf("send: %w", err)
	}
	data, fds, err := receive(conn, MaxReply, MaxFilesOut)
	if err != nil {
		closeFDs(fds)
		return nil, fmt.Errorf("receive: %w", err)
	}
	var got []*os.File
	for _, fd := range fds {
		got = append(got, os.NewFile(uintptr(fd), "received"))
	}
	var rep reply
	err = decodeStrict(data, &rep)
	switch {
	case err != nil:
	case rep.Err != nil:
		err = rep.Err
	case len(got) != filesOut:
		err = fmt.Errorf("got %d descriptors, want %d", len(got), filesOut)
	default:
		err = decodeStrict(rep.OK, out)
	}
	if err != nil {
		closeAll(got)
		return nil, err
	}
	return got, nil
}
