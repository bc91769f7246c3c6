package api

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
	"net/url"
	"os"
	"time"
)

// maxAnswer bounds one JSON answer or line of the daemon, in bytes.
const maxAnswer = 16 << 20

// Client talks to one bangerd. The zero value is not usable; call [New].
// It is safe for concurrent use and needs no closing.
type Client struct {
	path string
	id   string
}

// New returns a client of the daemon that listens at path. Requests carry
// requestID, which may be empty. New does not connect.
func New(path, requestID string) *Client {
	return &Client{path: path, id: requestID}
}

// Version asks who answers. It is also the way to see that the daemon is up.
func (c *Client) Version(ctx context.Context) (v Version, err error) {
	return v, c.call(ctx, "GET", "/v1/version", nil, &v)
}

// Status asks for the state of the services.
func (c *Client) Status(ctx context.Context) (v Status, err error) {
	return v, c.call(ctx, "GET", "/v1/status", nil, &v)
}

// Inventory returns everything on the host that the helper knows as banger's,
// as the JSON that it sent.
func (c *Client) Inventory(ctx context.Context) (json.RawMessage, error) {
	var raw json.RawMessage
	return raw, c.call(ctx, "GET", "/v1/inventory", nil, &raw)
}

// VMs lists all VMs, by name.
func (c *Client) VMs(ctx context.Context) (vms []VM, err error) {
	return vms, c.call(ctx, "GET", "/v1/vms", nil, &vms)
}

// VM returns one VM by name or id.
func (c *Client) VM(ctx context.Context, name string) (vm VM, err error) {
	return vm, c.call(ctx, "GET", vmPath(name), nil, &vm)
}

// CreateVM creates a VM and, where spec says so, starts it. It calls progress,
// which may be nil, for every event before the result.
func (c *Client) CreateVM(ctx context.Context, spec VMSpec, progress func(Event)) (vm VM, err error) {
	return vm, c.stream(ctx, "POST", "/v1/vms", spec, progress, &vm)
}

// StartVM starts a stopped VM.
func (c *Client) StartVM(ctx context.Context, name string, progress func(Event)) (vm VM, err error) {
	return vm, c.stream(ctx, "POST", vmPath(name)+"/start", nil, progress, &vm)
}

// StopVM shuts the guest down cleanly and kills it after timeout. Zero means
// the daemon's default.
func (c *Client) StopVM(ctx context.Context, name string, timeout time.Duration, progress func(Event)) (vm VM, err error) {
	path := fmt.Sprintf("%s/stop?timeout_ms=%d", vmPath(name), timeout.Milliseconds())
	return vm, c.stream(ctx, "POST", path, nil, progress, &vm)
}

// RestartVM stops and starts a VM.
func (c *Client) RestartVM(ctx context.Context, name string, timeout time.Duration, progress func(Event)) (vm VM, err error) {
	path := fmt.Sprintf("%s/restart?timeout_ms=%d", vmPath(name), timeout.Milliseconds())
	return vm, c.stream(ctx, "POST", path, nil, progress, &vm)
}

// KillVM ends a VM at once. What the guest had not synced is lost.
func (c *Client) KillVM(ctx context.Context, name string) (vm VM, err error) {
	return vm, c.stream(ctx, "POST", vmPath(name)+"/kill", nil, nil, &vm)
}

// DeleteVM deletes a VM and its disk. A running VM is refused with
// CodeConflict unless force is set, which kills it first.
func (c *Client) DeleteVM(ctx context.Context, name string, force bool, progress func(Event)) error {
	return c.stream(ctx, "DELETE", fmt.Sprintf("%s?force=%t", vmPath(name), force), nil, progress, nil)
}

// Logs copies the serial console's output so far to w, and goes on until ctx
// ends or the VM stops where follow is set.
func (c *Client) Logs(ctx context.Context, name string, follow bool, w io.Writer) error {
	in, err := c.do(ctx, "GET", fmt.Sprintf("%s/logs?follow=%t", vmPath(name), follow), nil)
	if err != nil {
		return err
	}
	defer in.Close()
	if _, err := io.Copy(w, in); err != nil {
		return fmt.Errorf("read logs: %w", err)
	}
	return nil
}

// Hold keeps a VM with AutoRemove alive: when the returned connection is
// closed, for whatever reason, the daemon deletes the VM. Reading from it
// returns an error once the daemon is gone, which does not delete the VM: call
// Hold again within a minute of the daemon's next start.
func (c *Client) Hold(ctx context.Context, name string) (net.Conn, error) {
	conn, err := c.upgrade(ctx, vmPath(name)+"/hold", nil)
	if err != nil {
		return nil, err
	}
	return conn.release()
}

// Agent returns a connection to the guest's agent. No daemon is on its way.
func (c *Client) Agent(ctx context.Context, name string) (*net.UnixConn, error) {
	conn, err := c.upgrade(ctx, vmPath(name)+"/agent", nil)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	files, err := RecvFiles(conn.UnixConn, "agent connection")
	if err != nil {
		return nil, fmt.Errorf("receive agent connection: %w", conn.explain(err))
	}
	defer files[0].Close()
	agent, err := net.FileConn(files[0])
	if err != nil {
		return nil, fmt.Errorf("receive agent connection: %w", err)
	}
	uc, ok := agent.(*net.UnixConn)
	if !ok {
		agent.Close()
		return nil, errors.New("receive agent connection: not a unix socket")
	}
	return uc, nil
}

// Images lists the catalogue of images, by name.
func (c *Client) Images(ctx context.Context) (images []Image, err error) {
	return images, c.call(ctx, "GET", "/v1/images", nil, &images)
}

// Image returns one image by name or digest.
func (c *Client) Image(ctx context.Context, name string) (img Image, err error) {
	return img, c.call(ctx, "GET", "/v1/images/"+url.PathEscape(name), nil, &img)
}

// DeleteImage removes an image that no VM uses.
func (c *Client) DeleteImage(ctx context.Context, name string) error {
	return c.call(ctx, "DELETE", "/v1/images/"+url.PathEscape(name), nil, nil)
}

// ImportImage imports what src reads: a regular file, a pipe, or a directory.
// The daemon reads the descriptor itself. src stays the caller's.
func (c *Client) ImportImage(ctx context.Context, req ImportRequest, src *os.File, progress func(Event)) (img Image, err error) {
	return img, c.importFiles(ctx, "/v1/images", req, []*os.File{src}, progress, &img)
}

// Kernels lists the catalogue of kernels, by name.
func (c *Client) Kernels(ctx context.Context) (kernels []Kernel, err error) {
	return kernels, c.call(ctx, "GET", "/v1/kernels", nil, &kernels)
}

// Kernel returns one kernel by name or digest.
func (c *Client) Kernel(ctx context.Context, name string) (k Kernel, err error) {
	return k, c.call(ctx, "GET", "/v1/kernels/"+url.PathEscape(name), nil, &k)
}

// DeleteKernel removes a kernel that no VM uses.
func (c *Client) DeleteKernel(ctx context.Context, name string) error {
	return c.call(ctx, "DELETE", "/v1/kernels/"+url.PathEscape(name), nil, nil)
}

// ImportKernel imports a kernel package or a kernel file, with the module
// directory and the configuration beside it where they are not nil. All stay
// the caller's.
func (c *Client) ImportKernel(ctx context.Context, req ImportRequest, src, modules, config *os.File, progress func(Event)) (k Kernel, err error) {
	files := []*os.File{src}
	req.Modules, req.Config = modules != nil, config != nil
	for _, f := range []*os.File{modules, config} {
		if f != nil {
			files = append(files, f)
		}
	}
	return k, c.importFiles(ctx, "/v1/kernels", req, files, progress, &k)
}

func vmPath(name string) string { return "/v1/vms/" + url.PathEscape(name) }

func (c *Client) request(ctx context.Context, method, path string, body any) (*http.Request, error) {
	var r io.Reader
	if body != nil {
		b, err := json.Marshal(body)
		if err != nil {
			return nil, fmt.Errorf("encode request: %w", err)
		}
		r = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://bangerd"+path, r)
	if err != nil {
		return nil, fmt.Errorf("make request: %w", err)
	}
	if c.id != "" {
		req.Header.Set(RequestIDHeader, c.id)
	}
	return req, nil
}

// do sends a request and returns the body of the answer, which the caller closes. An
// answer that is not a success is an error.
func (c *Client) do(ctx context.Context, method, path string, body any) (io.ReadCloser, error) {
	req, err := c.request(ctx, method, path, body)
	if err != nil {
		return nil, err
	}
	req.Close = true // a connection for each request, as for each command of the CLI
	conn, res, err := c.exchange(req)
	if err != nil {
		return nil, err
	}
	if res.StatusCode/100 != 2 {
		defer conn.Close()
		return nil, decodeError(res)
	}
	return answer{res.Body, conn}, nil
}

// exchange connects, sends a request and reads the head of the answer. The request's
// context bounds all that is done with the connection.
func (c *Client) exchange(req *http.Request) (*bound, *http.Response, error) {
	var d net.Dialer
	b := &bound{ctx: req.Context()}
	conn, err := d.DialContext(b.ctx, "unix", c.path)
	if err != nil {
		return nil, nil, fmt.Errorf("connect to bangerd: %w", b.explain(err))
	}
	b.UnixConn = conn.(*net.UnixConn)
	b.stop = context.AfterFunc(b.ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })
	in := bufio.NewReader(b)
	if req.Header.Get("Upgrade") != "" {
		in = bufio.NewReaderSize(oneByte{b}, 16)
	}
	// A request that is refused before it is read to its end is answered all the same.
	werr := req.Write(b)
	res, err := http.ReadResponse(in, req)
	switch {
	case err == nil:
		return b, res, nil
	case werr != nil:
		err = fmt.Errorf("send request: %w", werr)
	default:
		err = fmt.Errorf("read answer: %w", err)
	}
	b.Close()
	return nil, nil, err
}

// bound is a connection that a context bounds; its errors are then the context's cause.
type bound struct {
	*net.UnixConn
	ctx  context.Context
	stop func() bool
}

func (b *bound) Read(p []byte) (int, error) {
	n, err := b.UnixConn.Read(p)
	return n, b.explain(err)
}

func (b *bound) Write(p []byte) (int, error) {
	n, err := b.UnixConn.Write(p)
	return n, b.explain(err)
}

func (b *bound) explain(err error) error {
	if err != nil && err != io.EOF && b.ctx.Err() != nil {
		return context.Cause(b.ctx)
	}
	return err
}

// release unbinds the connection, which then is the caller's alone.
func (b *bound) release() (net.Conn, error) {
	if !b.stop() {
		b.UnixConn.Close()
		return nil, context.Cause(b.ctx)
	}
	return b.UnixConn, nil
}

func (b *bound) Close() error {
	b.stop()
	return b.UnixConn.Close()
}

// answer is the body of a response, with the connection that it comes from.
type answer struct {
	io.Reader
	conn *bound
}

func (a answer) Close() error { return a.conn.Close() }

func decodeError(res *http.Response) error {
	e := &Error{}
	err := json.NewDecoder(io.LimitReader(res.Body, maxAnswer)).Decode(e)
	if err != nil || e.Message == "" {
		return fmt.Errorf("bangerd answered %s", res.Status)
	}
	return e
}

func (c *Client) call(ctx context.Context, method, path string, body, out any) error {
	in, err := c.do(ctx, method, path, body)
	if err != nil {
		return err
	}
	defer in.Close()
	if out == nil {
		return nil
	}
	if err := json.NewDecoder(io.LimitReader(in, maxAnswer)).Decode(out); err != nil {
		return fmt.Errorf("read answer: %w", err)
	}
	return nil
}

func (c *Client) stream(ctx context.Context, method, path string, body any, progress func(Event), out any) error {
	in, err := c.do(ctx, method, path, body)
	if err != nil {
		return err
	}
	defer in.Close()
	return readEvents(in, progress, out)
}

// readEvents reads events until the one that ends the stream.
func readEvents(r io.Reader, progress func(Event), out any) error {
	s := bufio.NewScanner(r)
	s.Buffer(make([]byte, 0, 4096), maxAnswer)
	for s.Scan() {
		var ev Event
		if err := json.Unmarshal(s.Bytes(), &ev); err != nil {
			return fmt.Errorf("read event: %w", err)
		}
		switch {
		case ev.Error != nil:
			return ev.Error
		case ev.Result != nil:
			if out == nil {
				return nil
			}
			return json.Unmarshal(ev.Result, out)
		case progress != nil:
			progress(ev)
		}
	}
	if err := s.Err(); err != nil {
		return fmt.Errorf("read events: %w", err)
	}
	return fmt.Errorf("read events: bangerd went away: %w", io.ErrUnexpectedEOF)
}

func (c *Client) importFiles(ctx context.Context, path string, req ImportRequest, files []*os.File, progress func(Event), out any) error {
	conn, err := c.upgrade(ctx, path, req)
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := SendFiles(conn.UnixConn, files...); err != nil {
		return fmt.Errorf("pass descriptors: %w", conn.explain(err))
	}
	return readEvents(conn, progress, out)
}

// upgrade sends a POST that turns the connection into a plain unix socket. The
// 101 reply has no body and the daemon sends nothing before it is asked, so no
// byte of the new protocol can be lost in the reader.
func (c *Client) upgrade(ctx context.Context, path string, body any) (*bound, error) {
	req, err := c.request(ctx, "POST", path, body)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Connection", "Upgrade")
	req.Header.Set("Upgrade", Upgrade)
	conn, res, err := c.exchange(req)
	if err != nil {
		return nil, err
	}
	if res.StatusCode != http.StatusSwitchingProtocols {
		defer conn.Close()
		return nil, decodeError(res)
	}
	return conn, nil
}

// oneByte keeps a buffered reader from reading past the end of the headers: a
// read that took the first byte of the new protocol would lose its descriptors.
type oneByte struct{ r io.Reader }

func (o oneByte) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	return o.r.Read(p[:1])
}
