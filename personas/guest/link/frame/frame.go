// Package frame is the grammar of every connection between host and guest.
//
// A connection carries frames in both directions and nothing else:
//
//	+------+-----------------+---------------------+
//	| type | length (uint32) | payload             |
//	| 1 B  | 4 B, big endian | length bytes        |
//	+------+-----------------+---------------------+
//
// Whoever reads does not trust whoever writes: an unknown type, and a payload
// that is longer than its type allows, end the connection before a byte of the
// payload is stored.
package frame

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"
)

// Sizes of payloads, in bytes.
const (
	// MaxData bounds a frame that carries a piece of a stream.
	MaxData = 64 << 10
	// MaxMessage bounds a frame that carries a JSON document.
	MaxMessage = 1 << 20
	// MaxBoot bounds a boot configuration, which carries files too. The guest
	// has all of it in memory at once, and may have little.
	MaxBoot = 8 << 20

	headerBytes = 5
)

// Type says what a frame carries.
type Type byte

// Frames of the connection on which a guest asks for its boot configuration.
const (
	Hello Type = 0x01 // guest to host: JSON, who has started
	Boot  Type = 0x02 // host to guest: JSON, what to become
	Ready Type = 0x03 // guest to host: JSON, root, network and agent are there
)

// Frames from a client to the agent.
const (
	Request  Type = 0x10 // JSON, always the first frame
	Stdin    Type = 0x11 // bytes for the command's standard input
	StdinEOF Type = 0x12 // empty: standard input has ended
	Resize   Type = 0x13 // rows, columns: two uint16, big endian
	Signal   Type = 0x14 // signal number: one byte
)

// Frames from the agent to a client.
const (
	Started Type = 0x20 // JSON: the command runs
	Stdout  Type = 0x21 // bytes of the command's standard output
	Stderr  Type = 0x22 // bytes of the command's standard error
	Window  Type = 0x23 // uint32, big endian: bytes of Stdin that were consumed
	Exit    Type = 0x24 // JSON, last frame of a command
	Answer  Type = 0x25 // JSON, last frame of anything that is no command
	Failed  Type = 0x26 // JSON, last frame when the request could not be done
)

// Frames of a file tree, in either direction.
const (
	Entry Type = 0x30 // JSON: one file, directory or link
	Chunk Type = 0x31 // offset (uint64, big endian), then bytes of the file
	Done  Type = 0x32 // empty: the tree is complete
)

// ErrProtocol is wrapped by every error that means: the other side does not
// speak this protocol, or lies.
var ErrProtocol = errors.New("protocol violation")

// limit returns the longest payload that a frame of type t may have.
func (t Type) limit() (int, bool) {
	switch t {
	case Boot:
		return MaxBoot, true
	case Hello, Ready, Request, Started, Exit, Answer, Failed, Entry:
		return MaxMessage, true
	case Stdin, Stdout, Stderr, Chunk:
		return MaxData, true
	case Resize, Window:
		return 4, true
	case Signal:
		return 1, true
	case StdinEOF, Done:
		return 0, true
	}
	return 0, false
}

// A Reader reads frames from a stream. It is not safe for concurrent use.
type Reader struct {
	r    io.Reader
	head [headerBytes]byte
	buf  []byte
}

// NewReader returns a Reader of r. It reads exactly the frames that are asked
// for, never ahead.
func NewReader(r io.Reader) *Reader { return &Reader{r: r} }

// Next returns the next frame. The payload is valid until the next call. The
// error is io.EOF only at the border between two frames.
func (r *Reader) Next() (Type, []byte, error) {
	if _, err := io.ReadFull(r.r, r.head[:1]); err != nil {
		return 0, nil, err
	}
	t := Type(r.head[0])
	limit, ok := t.limit()
	if !ok {
		return 0, nil, fmt.Errorf("read frame: %w: unknown type %#x", ErrProtocol, byte(t))
	}
	if err := r.fill(r.head[1:]); err != nil {
		return 0, nil, err
	}
	size := binary.BigEndian.Uint32(r.head[1:])
	if uint64(size) > uint64(limit) {
		return 0, nil, fmt.Errorf("read frame: %w: type %#x with %d bytes, at most %d are allowed", ErrProtocol, byte(t), size, limit)
	}
	if cap(r.buf) < int(size) {
		r.buf = make([]byte, max(int(size), 4096))
	}
	payload := r.buf[:size]
	if err := r.fill(payload); err != nil {
		return 0, nil, err
	}
	return t, payload, nil
}

// fill reads all of p: an end within a frame is always unexpected.
func (r *Reader) fill(p []byte) error {
	_, err := io.ReadFull(r.r, p)
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// A Writer writes frames to a stream. It is safe for concurrent use: a frame is
// never torn by another.
type Writer struct {
	// mu is held over the write, because frames of one connection have an order.
	mu  sync.Mutex
	w   io.Writer
	buf []byte
}

// NewWriter returns a Writer to w. Every frame is one call of w.Write.
func NewWriter(w io.Writer) *Writer { return &Writer{w: w} }

// Write sends one frame, whose payload are the given parts in a row.
func (w *Writer) Write(t Type, parts ...[]byte) error {
	limit, ok := t.limit()
	size := 0
	for _, p := range parts {
		size += len(p)
	}
	if !ok || size > limit {
		return fmt.Errorf("write frame: type %#x with %d bytes: at most %d are allowed", byte(t), size, limit)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.buf = append(w.buf[:0], byte(t))
	w.buf = binary.BigEndian.AppendUint32(w.buf, uint32(size))
	for _, p := range parts {
		w.buf = append(w.buf, p...)
	}
	_, err := w.w.Write(w.buf)
	return err
}
