// Package personas holds what all roles of the one binary share: how a role is
// picked, how a process learns of its sockets and of its end, its logger and
// its version.
package personas

import (
	"context"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Role is one thing that the binary can be. argv[0] picks a role, never a
// right: each role checks for itself that it runs as the user it should.
type Role struct {
	Name string
	// Main gets the arguments without argv[0] and returns the exit code.
	Main func(args []string) int
}

// Pick returns the role that argv names and the arguments left for it: by the
// exact base name of argv[0], else by the first argument where that begins with
// the first role's name, else the first role.
func Pick(roles []Role, argv []string) (Role, []string) {
	if len(argv) == 0 {
		return roles[0], nil
	}
	name := filepath.Base(argv[0])
	for _, r := range roles[1:] {
		if r.Name == name {
			return r, argv[1:]
		}
	}
	if len(argv) > 1 && strings.HasPrefix(argv[1], roles[0].Name) {
		for _, r := range roles[1:] {
			if r.Name == argv[1] {
				return r, argv[2:]
			}
		}
	}
	return roles[0], argv[1:]
}

// SetName is what ps shows of the process: one that was started by the link to
// its own binary is called after the link. It is no matter if that fails.
func SetName(name string) {
	f, err := os.OpenFile("/proc/self/comm", os.O_WRONLY, 0)
	if err != nil {
		// The files in /proc are not one's own in a jail, whose binary nobody may
		// read. The name of the first thread is that of the process too.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		if unix.Gettid() == os.Getpid() {
			setThreadName(name)
		}
		return
	}
	defer f.Close()
	f.WriteString(name)
}

// setThreadName names the calling thread.
func setThreadName(name string) {
	if text, err := unix.BytePtrFromString(name); err == nil {
		unix.Prctl(unix.PR_SET_NAME, uintptr(unsafe.Pointer(text)), 0, 0, 0)
	}
}

// Context returns a context that ends when the process is asked to: by SIGTERM,
// SIGINT or SIGHUP. A second signal then has its default effect.
func Context() (context.Context, context.CancelFunc) {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)
	context.AfterFunc(ctx, stop)
	return ctx, stop
}

// NewLog returns the logger of a service: text, without the time where systemd
// keeps it (JOURNAL_STREAM is set then).
func NewLog(w io.Writer) *slog.Logger {
	opts := &slog.HandlerOptions{}
	if os.Getenv("JOURNAL_STREAM") != "" {
		opts.ReplaceAttr = func(groups []string, a slog.Attr) slog.Attr {
			if len(groups) == 0 && a.Key == slog.TimeKey {
				return slog.Attr{}
			}
			return a
		}
	}
	return slog.New(slog.NewTextHandler(w, opts))
}
