package main_test

import (
	"bytes"
	"strings"
	"sync"
	"testing"
	"time"

	"banger/testdata/host"
)

// patience is how long a test waits for what should come soon: longer than banger, which
// starts an emulated guest that hangs once more after a minute.
const patience = 4 * time.Minute

// said collects what a command prints, and tells when it has said a word.
type said struct {
	word string
	when chan struct{} // closed once word was printed

	// mu guards the fields that follow.
	mu   sync.Mutex
	text bytes.Buffer
	done bool
}

// Write implements io.Writer.
func (s *said) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.text.Write(p)
	if !s.done && strings.Contains(s.text.String(), s.word) {
		s.done = true
		close(s.when)
	}
	return len(p), nil
}

// String returns all that was said.
func (s *said) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.String()
}

// await waits until word was said, by what.
func (s *said) await(t *testing.T, what string) {
	t.Helper()
	select {
	case <-s.when:
	case <-time.After(patience):
		t.Fatalf("%s: did not say %q: %s", what, s.word, s)
	}
}

// startSaying starts a command of root and waits until it has printed word.
func startSaying(t *testing.T, h *host.Host, word string, args ...string) (*host.Cmd, *said) {
	t.Helper()
	out := &said{word: word, when: make(chan struct{})}
	cmd := h.Cmd(t.Context(), host.Root, args...)
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Start(); err != nil {
		t.Fatalf("%s: %v", strings.Join(args, " "), err)
	}
	out.await(t, strings.Join(args, " "))
	return cmd, out
}

// waitCode waits for the end of a command and returns its exit code.
func waitCode(t *testing.T, cmd *host.Cmd) int {
	t.Helper()
	done := make(chan struct{})
	go func() { cmd.Wait(); close(done) }()
	select {
	case <-done:
		return host.Code(cmd.ProcessState)
	case <-time.After(patience):
		cmd.Process.Kill()
		<-done
		t.Fatalf("%s: did not end", strings.Join(cmd.Args, " "))
		return -1
	}
}

// waitFor waits until what holds.
func waitFor(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !holds(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain for %s", what)
		}
	}
}
