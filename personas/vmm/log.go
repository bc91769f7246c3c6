package vmm

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"sync"
	"syscall"

	"banger/fc"
)

// logger is the VMM's log, which the API may send elsewhere before boot.
type logger struct {
	*slog.Logger
	id string
	to *switched
}

// switched is a slog.Handler that can be exchanged.
type switched struct {
	// mu guards the fields that follow, which are the log as it was last asked for.
	mu         sync.RWMutex
	handler    slog.Handler
	out        io.Writer
	file       *os.File // out, where it is not standard error
	level      slog.Level
	off        bool
	showLevel  bool
	showOrigin bool
}

// newLogger logs as flags say: to standard error unless there is a path.
func newLogger(f flags) (*logger, error) {
	to := &switched{out: os.Stderr}
	l := &logger{slog.New(to).With("id", f.id), f.id, to}
	return l, l.configure(fc.Logger{Path: f.logPath, Level: f.level, ShowLevel: &f.showLevel, ShowLogOrigin: &f.showOrigin})
}

// configure changes what r names and leaves the rest.
func (l *logger) configure(r fc.Logger) error {
	level, off, err := parseLevel(r.Level)
	if err != nil {
		return err
	}
	to := l.to
	to.mu.Lock()
	defer to.mu.Unlock()
	if r.Path != "" {
		out, err := openOutput(r.Path)
		if err != nil {
			return err
		}
		defer to.file.Close() // nil is closed, too
		to.out, to.file = out, out
	}
	if r.Level != "" {
		to.level, to.off = level, off
	}
	if r.ShowLevel != nil {
		to.showLevel = *r.ShowLevel
	}
	if r.ShowLogOrigin != nil {
		to.showOrigin = *r.ShowLogOrigin
	}
	to.handler = slog.NewTextHandler(to.out, &slog.HandlerOptions{
		Level: to.level, AddSource: to.showOrigin, ReplaceAttr: dropLevel(!to.showLevel),
	}).WithAttrs([]slog.Attr{slog.String("id", l.id)})
	return nil
}

func dropLevel(drop bool) func([]string, slog.Attr) slog.Attr {
	if !drop {
		return nil
	}
	return func(groups []string, a slog.Attr) slog.Attr {
		if len(groups) == 0 && a.Key == slog.LevelKey {
			return slog.Attr{}
		}
		return a
	}
}

// parseLevel knows Firecracker's levels in any case. Empty is Info.
func parseLevel(name string) (level slog.Level, off bool, err error) {
	switch strings.ToLower(name) {
	case "off":
		return slog.LevelError, true, nil
	case "error":
		return slog.LevelError, false, nil
	case "warn", "warning":
		return slog.LevelWarn, false, nil
	case "info", "":
		return slog.LevelInfo, false, nil
	case "debug":
		return slog.LevelDebug, false, nil
	case "trace":
		return slog.LevelDebug - 4, false, nil
	}
	return 0, false, fmt.Errorf("invalid log level '%.20s'", name)
}

// openOutput opens a file or named pipe to append to. A pipe that nobody reads is no
// reason to wait, nor for an error later.
func openOutput(path string) (*os.File, error) {
	return os.OpenFile(path, os.O_RDWR|os.O_APPEND|os.O_CREATE|syscall.O_NONBLOCK, 0o600)
}

// Enabled implements slog.Handler.
func (s *switched) Enabled(_ context.Context, level slog.Level) bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return !s.off && level >= s.level
}

// Handle implements slog.Handler.
func (s *switched) Handle(ctx context.Context, r slog.Record) error {
	s.mu.RLock() // over the write, before which its file must not be closed
	defer s.mu.RUnlock()
	return s.handler.Handle(ctx, r)
}

// WithAttrs implements slog.Handler. The one attribute of this log, the id, is in each
// handler already.
func (s *switched) WithAttrs([]slog.Attr) slog.Handler { return s }

// WithGroup implements slog.Handler. This log has no groups.
func (s *switched) WithGroup(string) slog.Handler { return s }
