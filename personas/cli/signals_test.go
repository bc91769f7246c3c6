package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"
	"testing"
	"time"
)

// Go's runtime sends SIGURG to itself: taken for a wish of the user's it ended
// commands now and then, on busy machines.
func TestOnlySignalsThatWereAskedForArrive(t *testing.T) {
	_, s := catchSignals(t.Context())
	defer s.stop()
	got := make(chan syscall.Signal, 16)
	defer s.take(func(sig syscall.Signal) { got <- sig })()
	for _, sig := range []syscall.Signal{syscall.SIGURG, syscall.SIGWINCH, syscall.SIGCHLD, syscall.SIGHUP} {
		if err := syscall.Kill(os.Getpid(), sig); err != nil {
			t.Fatal(err)
		}
		time.Sleep(50 * time.Millisecond) // signals have no order among themselves
	}
	select {
	case sig := <-got:
		if sig != syscall.SIGHUP {
			t.Fatalf("got %v, which nobody asked for", sig)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("SIGHUP did not arrive")
	}
}

// A signal ends what goes on; what had failed before is said all the same.
func TestSignalHidesNoFailure(t *testing.T) {
	ended := &signalError{syscall.SIGINT}
	failed := errors.New("start b: no memory")
	err := endedBy(ended, errors.Join(
		fmt.Errorf("read events: %w", context.Canceled), failed, fmt.Errorf("ask: %w", ended),
	))
	if got, want := err.Error(), "ended by interrupt\nstart b: no memory"; got != want {
		t.Errorf("%s\nwant\n%s", got, want)
	}
	if code := exitCode(err); code != 130 {
		t.Errorf("exit code %d", code)
	}
	if err := endedBy(ended, nil); err != nil {
		t.Errorf("of success: %v", err)
	}
}

// An error that wraps several in words of its own is told in these words.
func TestJoined(t *testing.T) {
	a, b := errors.New("a"), errors.New("b")
	for _, c := range []struct {
		err  error
		want int
	}{
		{a, 0}, {fmt.Errorf("make it: %w", a), 0}, {fmt.Errorf("%w: %w", a, b), 0},
		{errors.Join(a), 1}, {errors.Join(a, nil, errors.Join(a, b)), 2},
	} {
		if got := joined(c.err); len(got) != c.want {
			t.Errorf("%q: %d errors, want %d", c.err, len(got), c.want)
		}
	}
}
