package image

import (
	"context"
	"fmt"
	"hash"
	"io"
)

const (
	pipeChunk  = 256 << 10
	pipeChunks = 6
)

// counter counts what is read from a source, reports it, and ends with the context.
type counter struct {
	ctx  context.Context
	r    io.Reader
	n    int64
	told func(n int64) // may be nil; gets the bytes of each read
}

func (c *counter) Read(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	n, err := c.r.Read(p)
	c.n += int64(n)
	if c.told != nil && n > 0 {
		c.told(int64(n))
	}
	return n, err
}

// expansion refuses to let more come out of a stream, compressed or not, than Limits allow.
type expansion struct {
	r      io.Reader
	in     *counter // below the decompressor, read by the same goroutine
	limits Limits
	out    int64
}

func (e *expansion) Read(p []byte) (int, error) {
	n, err := e.r.Read(p)
	e.out += int64(n)
	if e.out > e.limits.stream() {
		return n, fmt.Errorf("%w: more than %d bytes", ErrTooBig, e.limits.stream())
	}
	if e.out > e.limits.RatioFree && e.out/e.limits.Ratio > e.in.n {
		return n, fmt.Errorf("%w: more than %d bytes out of each compressed byte", ErrTooBig, e.limits.Ratio)
	}
	return n, err
}

// pipeline reads ahead: one goroutine reads (and decompresses), a second one hashes, and
// Read hands out what both have done with.
type pipeline struct {
	cancel context.CancelFunc
	free   chan []byte
	ready  chan piece
	done   chan struct{}
	cur    []byte
	rest   []byte
	err    error
	ended  bool // Read has returned an error
}

type piece struct {
	data []byte
	err  error
}

// newPipeline starts to read r to its end. All bytes go through sum before they are handed
// out. The caller must call stop, and must not touch r and sum before it has returned or
// Read has returned an error.
func newPipeline(ctx context.Context, r io.Reader, sum hash.Hash) *pipeline {
	ctx, cancel := context.WithCancel(ctx)
	p := &pipeline{
		cancel: cancel,
		free:   make(chan []byte, pipeChunks),
		ready:  make(chan piece, pipeChunks),
		done:   make(chan struct{}),
	}
	for range pipeChunks {
		p.free <- nil
	}
	read := make(chan piece, pipeChunks)
	go func() {
		defer close(read)
		for {
			var buf []byte
			select {
			case buf = <-p.free:
			case <-ctx.Done():
				return
			}
			if buf == nil {
				buf = make([]byte, pipeChunk)
			}
			n, err := io.ReadFull(r, buf)
			if err == io.ErrUnexpectedEOF {
				err = io.EOF
			}
			read <- piece{buf[:n], err}
			if err != nil {
				return
			}
		}
	}()
	go func() {
		defer close(p.done)
		defer close(p.ready)
		for c := range read {
			sum.Write(c.data)
			p.ready <- c
		}
	}()
	return p
}

func (p *pipeline) Read(b []byte) (int, error) {
	for len(p.rest) == 0 {
		if p.err != nil {
			p.ended = true
			return 0, p.err
		}
		if p.cur != nil {
			p.free <- p.cur[:pipeChunk]
			p.cur = nil
		}
		c, ok := <-p.ready
		if !ok {
			p.err = context.Canceled
			continue
		}
		p.cur, p.rest, p.err = c.data, c.data, c.err
	}
	n := copy(b, p.rest)
	p.rest = p.rest[n:]
	return n, nil
}

// stop ends the reading and waits for it. A read of the source that blocks delays it.
func (p *pipeline) stop() {
	p.cancel()
	for range p.ready {
	}
	<-p.done
}
