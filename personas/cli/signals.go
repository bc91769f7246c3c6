package cli

import (
	"context"
	"os"
	"os/signal"
	"sync"
	"syscall"
)

// signals decides what SIGINT, SIGTERM and SIGHUP mean right now. At first, the
// first of them ends the context, and the second has its default effect.
type signals struct {
	received chan os.Signal
	done     chan struct{}
	wait     sync.WaitGroup

	// mu guards handler.
	mu      sync.Mutex
	handler func(syscall.Signal)
}

var endSignals = []os.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP}

// catchSignals returns a context that a signal ends, with a *signalError as its
// cause.
func catchSignals(ctx context.Context) (context.Context, *signals) {
	ctx, cancel := context.WithCancelCause(ctx)
	s := &signals{received: make(chan os.Signal, 16), done: make(chan struct{})}
	s.handler = func(sig syscall.Signal) {
		cancel(&signalError{sig})
		signal.Stop(s.received)
	}
	signal.Notify(s.received, endSignals...)
	s.wait.Go(s.run)
	return ctx, s
}

func (s *signals) run() {
	for {
		select {
		case sig := <-s.received:
			s.mu.Lock()
			handler := s.handler
			s.mu.Unlock()
			handler(sig.(syscall.Signal))
		case <-s.done:
			return
		}
	}
}

// take lets handler have the signals of endSignals, and those in more, until
// release is called. handler is never called twice at a time.
func (s *signals) take(handler func(syscall.Signal), more ...os.Signal) (release func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	before := s.handler
	s.handler = handler
	signal.Notify(s.received, endSignals...)
	if len(more) > 0 { // no signal at all would mean every signal, those of Go's runtime included
		signal.Notify(s.received, more...)
	}
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.handler = before
		if len(more) > 0 {
			signal.Reset(more...)
		}
	}
}

// stop gives all signals their default effect again.
func (s *signals) stop() {
	signal.Stop(s.received)
	close(s.done)
	s.wait.Wait()
}
