package image

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/therootcompany/xz"
)

// maxWindow bounds the memory that a compressed stream may ask for. It is what the highest
// levels of xz (64 MiB) and zstd (128 MiB) use.
const maxWindow = 128 << 20

// magics are how compressed streams begin.
var magics = []struct {
	magic string
	open  func(r io.Reader) (io.ReadCloser, error)
}{
	{"\x1f\x8b", openGzip},
	{"\xfd7zXZ\x00", openXZ},
	{"\x28\xb5\x2f\xfd", openZstd},
	{"\x50\x2a\x4d\x18", openZstd}, // a skippable frame, as pzstd writes first
}

// decompress returns the content of r, whatever it is compressed with, if at all.
func decompress(r io.Reader) (io.ReadCloser, error) {
	b := bufio.NewReaderSize(r, 128<<10)
	head, err := b.Peek(6)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	for _, m := range magics {
		if bytes.HasPrefix(head, []byte(m.magic)) {
			return m.open(b)
		}
	}
	return io.NopCloser(b), nil
}

func openGzip(r io.Reader) (io.ReadCloser, error) {
	z, err := gzip.NewReader(r)
	if err != nil {
		return nil, fmt.Errorf("gzip: %w: %w", ErrCorrupt, err)
	}
	return corrupting{z, z.Close}, nil
}

func openXZ(r io.Reader) (io.ReadCloser, error) {
	z, err := xz.NewReader(r, maxWindow)
	if err != nil {
		return nil, fmt.Errorf("xz: %w: %w", ErrCorrupt, err)
	}
	return corrupting{z, func() error { return nil }}, nil
}

func openZstd(r io.Reader) (io.ReadCloser, error) {
	z, err := zstd.NewReader(r, zstd.WithDecoderMaxWindow(maxWindow), zstd.WithDecoderConcurrency(1))
	if err != nil {
		return nil, fmt.Errorf("zstd: %w: %w", ErrCorrupt, err)
	}
	return corrupting{z, func() error { z.Close(); return nil }}, nil
}

// corrupting marks the errors of a decompressor as ErrCorrupt. Those of the source below it
// come through it too, and keep their own identity beside.
type corrupting struct {
	r     io.Reader
	close func() error
}

func (c corrupting) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	if err != nil && err != io.EOF {
		err = fmt.Errorf("decompress: %w: %w", ErrCorrupt, err)
	}
	return n, err
}

func (c corrupting) Close() error { return c.close() }
