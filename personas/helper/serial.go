package helper

import (
	"errors"
	"os"
	"path/filepath"
)

func (m *machines) logPath(r *reservation) string {
	return filepath.Join(m.logs, r.rec.ID+".log")
}

// maxLog bounds a serial log, in bytes. What a guest writes beyond is thrown
// away together with what it wrote before.
const maxLog = 8 << 20

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
