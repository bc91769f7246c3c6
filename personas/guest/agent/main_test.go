package agent_test

import (
	"os"
	"os/signal"
	"syscall"
	"testing"
)

// A shell starts what it puts into the background with SIGINT and SIGQUIT
// ignored, and what is ignored stays so over an exec. PID 1 of a guest ignores
// nothing: with a handler here, commands get the default there too.
func TestMain(m *testing.M) {
	signal.Notify(make(chan os.Signal, 1), syscall.SIGINT, syscall.SIGQUIT)
	os.Exit(m.Run())
}
