// Package decompress reads the compression formats that kernels, their
// modules and their packages come in, told apart by their first bytes.
//
// What it reads is untrusted: every format's window is bounded, and Copy bounds
// what comes out, so that a small file cannot grow without end.
package decompress

import (
	"bufio"
	"bytes"
	"compress/bzip2"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"
	xz "github.com/therootcompany/xz"
	"github.com/ulikunitz/xz/lzma"
)

// Errors of this package, for errors.Is.
var (
	// ErrUnsupported means a format that is known by its magic but not read here.
	ErrUnsupported = errors.New("compression is not supported")
	// ErrTooLarge means that more came out than the caller allowed.
	ErrTooLarge = errors.New("decompressed data is too large")
)

// maxWindow bounds the memory that a stream may ask for. The kernel's own
// build uses windows of up to 128 MiB (zstd -22 --ultra).
const maxWindow = 128 << 20

// Format names a compression format as the kernel's build does.
type Format string

// The formats that Detect knows. None means that no magic matched.
const (
	None  Format = ""
	Gzip  Format = "gzip"
	XZ    Format = "xz"
	Zstd  Format = "zstd"
	LZ4   Format = "lz4"
	LZMA  Format = "lzma"
	Bzip2 Format = "bzip2"
	LZO   Format = "lzo"
)

// magics are tried in order; the weakest, LZMA's, comes last.
var magics = []struct {
	format Format
	magic  []byte
}{
	{XZ, []byte{0xfd, '7', 'z', 'X', 'Z', 0}},
	{Zstd, []byte{0x28, 0xb5, 0x2f, 0xfd}},
	{LZ4, []byte{0x02, 0x21, 0x4c, 0x18}}, // legacy frame: what the kernel's build writes
	{LZ4, []byte{0x04, 0x22, 0x4d, 0x18}},
	{LZO, []byte{0x89, 'L', 'Z', 'O'}},
	{Gzip, []byte{0x1f, 0x8b}},
	{Bzip2, []byte("BZh")},
	{LZMA, []byte{0x5d, 0, 0}},
}

// magicLen is the longest magic.
const magicLen = 6

// Detect tells the format of data that starts with head.
func Detect(head []byte) Format {
	for _, m := range magics {
		if bytes.HasPrefix(head, m.magic) {
			return m.format
		}
	}
	return None
}

// NewReader returns a reader of what r decompresses to, and the format found.
// Data without a known magic is returned as it is. The caller closes the reader,
// which does not close r; more of r may have been read than was needed.
func NewReader(r io.Reader) (io.ReadCloser, Format, error) {
	br := bufio.NewReaderSize(r, 64<<10)
	head, err := br.Peek(magicLen)
	if err != nil && err != io.EOF {
		return nil, None, fmt.Errorf("read magic: %w", err)
	}
	format := Detect(head)
	rc, err := open(br, format)
	if err != nil {
		return nil, format, fmt.Errorf("open %s stream: %w", format, err)
	}
	return rc, format, nil
}

func open(r io.Reader, format Format) (io.ReadCloser, error) {
	switch format {
	case None:
		return io.NopCloser(r), nil
	case Gzip:
		return gzip.NewReader(r)
	case Bzip2:
		return io.NopCloser(bzip2.NewReader(r)), nil
	case XZ:
		// This decoder, not ulikunitz's: a kernel's xz has the x86 branch filter.
		zr, err := xz.NewReader(r, maxWindow)
		return io.NopCloser(zr), err
	case LZMA:
		zr, err := lzma.ReaderConfig{DictCap: maxWindow}.NewReader(r)
		return io.NopCloser(zr), err
	case LZ4:
		return io.NopCloser(lz4.NewReader(r)), nil
	case Zstd:
		zr, err := zstd.NewReader(r, zstd.WithDecoderMaxWindow(maxWindow),
			zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true))
		if err != nil {
			return nil, err
		}
		return zr.IOReadCloser(), nil
	}
	return nil, ErrUnsupported
}

// Limit returns a reader of r that fails with ErrTooLarge once limit bytes have been
// read and there are more.
func Limit(r io.Reader, limit int64) io.Reader { return &limited{r: r, left: limit, limit: limit} }

type limited struct {
	r           io.Reader
	left, limit int64
}

func (l *limited) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	if l.left > 0 {
		n, err := l.r.Read(p[:min(int64(len(p)), l.left)])
		l.left -= int64(n)
		return n, err
	}
	if _, err := io.ReadFull(l.r, make([]byte, 1)); err != nil {
		return 0, err
	}
	return 0, fmt.Errorf("%w: more than %d bytes", ErrTooLarge, l.limit)
}

// Copy copies src to dst and returns the bytes written. It fails with ErrTooLarge, and
// has written limit bytes, when src has more than that.
func Copy(dst io.Writer, src io.Reader, limit int64) (int64, error) {
	return io.Copy(dst, Limit(src, limit))
}

// WithContext returns a reader of r that ends with ctx.
func WithContext(ctx context.Context, r io.Reader) io.Reader { return &ctxReader{ctx, r} }

type ctxReader struct {
	ctx context.Context
	r   io.Reader
}

func (c *ctxReader) Read(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	return c.r.Read(p)
}
