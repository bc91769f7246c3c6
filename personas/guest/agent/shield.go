package agent

import (
	"fmt"
	"os"
	"strings"
	"sync"
)

// unkillable is the score at which the kernel never kills a process for want of
// memory. See oom_score_adj in proc(5).
const unkillable = "-1000"

// A shield keeps the kernel from killing this process when a guest runs out of
// memory, whoever has used it up: without its agent nobody reaches the guest. A
// child inherits the score, and must not: it may be the one that uses it all up.
type shield struct {
	// mu is held while the score is an ordinary one.
	mu       sync.Mutex
	file     *os.File
	ordinary string
}

// Shield protects the process that a runs in, but not the commands that it runs,
// and returns what ends that. Call it before Serve.
func (a *Agent) Shield() (end func(), err error) {
	f, err := os.OpenFile("/proc/self/oom_score_adj", os.O_RDWR, 0)
	if err != nil {
		return nil, fmt.Errorf("shield agent: %w", err)
	}
	text := make([]byte, 16)
	n, err := f.ReadAt(text, 0)
	if n == 0 {
		f.Close()
		return nil, fmt.Errorf("shield agent: %w", err)
	}
	s := &shield{file: f, ordinary: strings.TrimSpace(string(text[:n]))}
	if err := s.set(unkillable); err != nil {
		f.Close()
		return nil, err
	}
	a.shield = s
	return func() {
		_ = s.set(s.ordinary) // no less than it has is refused to nobody
		f.Close()
	}, nil
}

// without calls start, which makes a child that is to have the ordinary score.
// This process has it meanwhile: nothing can be done to a child between its fork
// and its first instruction, after which it may have children of its own. In that
// moment, a process that uses up the memory is still the better one to kill.
func (s *shield) without(start func() (*os.Process, error)) (*os.Process, error) {
	if s == nil {
		return start()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.set(s.ordinary); err != nil {
		return nil, err
	}
	proc, err := start()
	_ = s.set(unkillable) // what could be done once can be done again; if not, the child runs all the same
	return proc, err
}

func (s *shield) set(score string) error {
	if _, err := s.file.WriteAt([]byte(score), 0); err != nil {
		return fmt.Errorf("shield agent: %w", err)
	}
	return nil
}
