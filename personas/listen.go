package personas

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
)

// listenFD is the first descriptor that sd_listen_fds(3) passes.
const listenFD = 3

// Listener returns the one listening unix socket that the process was started
// with, as sd_listen_fds(3) has it. LISTEN_PID may be missing: a process that
// starts another cannot know it before.
func Listener() (*net.UnixListener, error) {
	if pid := os.Getenv("LISTEN_PID"); pid != "" && pid != strconv.Itoa(os.Getpid()) {
		return nil, fmt.Errorf("take listening socket: it is meant for process %s", pid)
	}
	if n := os.Getenv("LISTEN_FDS"); n != "1" {
		return nil, fmt.Errorf("take listening socket: LISTEN_FDS is %q, want 1", n)
	}
	f := os.NewFile(listenFD, "listen")
	defer f.Close()
	l, err := net.FileListener(f)
	if err != nil {
		return nil, fmt.Errorf("take listening socket: %w", err)
	}
	ul, ok := l.(*net.UnixListener)
	if !ok {
		l.Close()
		return nil, errors.New("take listening socket: not a unix socket")
	}
	return ul, nil
}
