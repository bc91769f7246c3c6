package helper

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

func (m *machines) logPath(r *reservation) string {
	return filepath.Join(m.logs, r.rec.ID+".log")
}

// maxLog bounds a serial log, in bytes. What a guest writes beyond is thrown
// away together with what it wrote before.
const maxLog = 8 << 20

// logPause is the shortest time between two looks at the logs. What a VMM can
// write meanwhile is what a log may exceed maxLog by.
const logPause = 20 * time.Millisecond

// trimLogs empties the serial logs that have grown too large. The VMMs write
// for appending, so that an emptied file begins anew.
func (m *machines) trimLogs() error {
	var errs []error
	for _, r := range m.table.all() {
		info, err := os.Lstat(m.logPath(r))
		if err != nil || info.Size() <= maxLog {
			continue
		}
		errs = append(errs, os.Truncate(m.logPath(r), 0))
	}
	return errors.Join(errs...)
}

// boundLogs trims the logs as soon as they grow, until ctx is done. A log without
// end is memory that is gone: no VMM may take it in the time between two ticks.
func (m *machines) boundLogs(ctx context.Context, log *slog.Logger) error {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return fmt.Errorf("watch serial logs: %w", err)
	}
	events := os.NewFile(uintptr(fd), "inotify")
	defer events.Close()
	if _, err := unix.InotifyAddWatch(fd, m.logs, unix.IN_MODIFY|unix.IN_ONLYDIR); err != nil {
		return fmt.Errorf("watch serial logs: %w", err)
	}
	defer context.AfterFunc(ctx, func() { events.SetReadDeadline(time.Unix(1, 0)) })()
	for some := make([]byte, 4096); ; {
		if _, err := events.Read(some); err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return fmt.Errorf("watch serial logs: %w", err)
		}
		if err := m.trimLogs(); err != nil {
			log.Warn("trim serial logs, ignoring", "error", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(logPause):
		}
	}
}
