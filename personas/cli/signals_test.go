package cli

import (
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
