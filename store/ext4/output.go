package ext4

import (
	"errors"
	"fmt"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

const (
	outputChunk  = 1 << 20
	outputChunks = 4
)

// output gathers writes that follow each other into large ones and does them in
// the background, so that reading and decompressing the stream goes on meanwhile.
type output struct {
	file *os.File
	buf  []byte
	off  int64 // where buf belongs

	full    chan chunk
	free    chan []byte
	pending sync.WaitGroup // chunks handed over and not yet written
	done    chan struct{}

	// mu guards err, the first error of the background.
	mu  sync.Mutex
	err error
}

type chunk struct {
	data []byte
	off  int64
}

// newOutput starts the background; stop ends it.
func newOutput(f *os.File) *output {
	o := &output{
		file: f,
		full: make(chan chunk, outputChunks),
		free: make(chan []byte, outputChunks),
		done: make(chan struct{}),
	}
	for range outputChunks - 1 {
		o.free <- nil
	}
	go o.run()
	return o
}

func (o *output) run() {
	defer close(o.done)
	for c := range o.full {
		if o.failure() == nil {
			if _, err := o.file.WriteAt(c.data, c.off); err != nil {
				o.mu.Lock()
				o.err = err
				o.mu.Unlock()
			}
		}
		o.free <- c.data[:0]
		o.pending.Done()
	}
}

func (o *output) failure() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.err
}

// write puts p at block b of the image. The copy is taken before write returns.
func (o *output) write(b uint32, p []byte) error {
	return o.writeAt(int64(b)*blockSize, p)
}

func (o *output) writeAt(off int64, p []byte) error {
	for len(p) > 0 {
		if off != o.off+int64(len(o.buf)) || len(o.buf) == outputChunk {
			o.hand()
			if err := o.failure(); err != nil {
				return err
			}
			o.off = off
		}
		if o.buf == nil {
			o.buf = <-o.free // or nothing: an empty file system needs no large ones
		}
		n := min(len(p), outputChunk-len(o.buf))
		o.buf = append(o.buf, p[:n]...)
		p, off = p[n:], off+int64(n)
	}
	return nil
}

// hand gives the gathered bytes to the background.
func (o *output) hand() {
	if len(o.buf) == 0 {
		return
	}
	o.pending.Add(1)
	o.full <- chunk{o.buf, o.off}
	o.buf = nil
}

// flush returns when everything is written.
func (o *output) flush() error {
	o.hand()
	o.pending.Wait()
	return o.failure()
}

// stop ends the background. What was not flushed is lost. Stop may be called twice.
func (o *output) stop() {
	if o.full != nil {
		close(o.full)
		<-o.done
		o.full = nil
	}
}

// clear makes s a hole again, or zeroes where the host's file system has no holes.
func (o *output) clear(s span) error {
	off, n := int64(s.start)*blockSize, int64(s.count)*blockSize
	err := unix.Fallocate(int(o.file.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, off, n)
	if err == nil {
		return nil
	}
	if !errors.Is(err, unix.EOPNOTSUPP) && !errors.Is(err, unix.ENOSYS) {
		return fmt.Errorf("punch hole: %w", err)
	}
	zero := make([]byte, 64<<10)
	for n > 0 {
		k := min(n, int64(len(zero)))
		if _, err := o.file.WriteAt(zero[:k], off); err != nil {
			return err
		}
		off, n = off+k, n-k
	}
	return nil
}
