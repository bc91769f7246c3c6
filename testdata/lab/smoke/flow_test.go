package smoke_test

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"hash"
	"io"
	"sync"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"banger/testdata/lab/talk"
)

// A flow is random bytes on their way through a command that gives back what it
// is given, such as cat in a VM. It waits for the command, and has few bytes under
// way at any time.
type flow struct {
	mu         sync.Mutex
	change     *sync.Cond // of what follows
	sent, back count
	over       bool
}

// count is what has gone past a place.
type count struct {
	n   int64
	sum hash.Hash
}

func (c *count) add(b []byte) {
	c.n += int64(len(b))
	c.sum.Write(b)
}

const (
	flowWindow = 64 << 10 // bytes under way
	flowPiece  = 4 << 10
	flowPause  = 20 * time.Millisecond // after each piece
	flowMoves  = 40 << 10              // what a flow is to move, to be one
)

func newFlow() *flow {
	f := &flow{sent: count{sum: sha256.New()}, back: count{sum: sha256.New()}}
	f.change = sync.NewCond(&f.mu)
	return f
}

// Read draws a piece for the command.
func (f *flow) Read(b []byte) (int, error) {
	time.Sleep(flowPause)
	f.mu.Lock()
	defer f.mu.Unlock()
	for !f.over && f.sent.n-f.back.n > flowWindow {
		f.change.Wait()
	}
	if f.over {
		return 0, io.EOF
	}
	b = b[:min(len(b), flowPiece)]
	rand.Read(b) // never fails
	f.sent.add(b)
	return len(b), nil
}

// Write takes what the command gives back.
func (f *flow) Write(b []byte) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.back.add(b)
	f.change.Broadcast()
	return len(b), nil
}

// end ends the command's input.
func (f *flow) end() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.over = true
	f.change.Broadcast()
}

// verdict is an error if what came back is not what was sent.
func (f *flow) verdict() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.sent.n != f.back.n || !bytes.Equal(f.sent.sum.Sum(nil), f.back.sum.Sum(nil)) {
		return fmt.Errorf("%d bytes were sent, and %d others came back", f.sent.n, f.back.n)
	}
	return nil
}

// moved returns how many bytes have come back.
func (f *flow) moved() int64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.back.n
}

func beginFlow(ts *testscript.TestScript, neg bool, args []string) {
	s := scene(ts, args, 3)
	b := &begun{flow: newFlow()}
	var err error
	b.process, err = s.host.Start(command(args[1], args[2:]), talk.Streams{Stdin: b.flow, Stdout: b.flow, Stderr: &b.stderr})
	ts.Check(err)
	s.begun[args[0]] = b
}

func flows(ts *testscript.TestScript, neg bool, args []string) {
	s := scene(ts, args, 1)
	before := make([]int64, len(args))
	for i, name := range args {
		if b := s.begun[name]; b == nil || b.flow == nil {
			ts.Fatalf("no flow: %s", name)
		}
		before[i] = s.begun[name].flow.moved()
	}
	late := time.After(patience)
	for i, name := range args {
		b := s.begun[name]
		for b.flow.moved() < before[i]+flowMoves {
			select {
			case <-b.process.Done():
				ts.Fatalf("%s has ended: %s", name, b.stderr.String())
			case <-late:
				ts.Fatalf("%s: %d bytes in %v", name, b.flow.moved()-before[i], patience)
			case <-time.After(10 * time.Millisecond):
			}
		}
	}
}
