package jail

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// recordName is the record's name in the jail directory.
const recordName = "record.json"

// Record identifies a VMM across restarts of its keeper. It lies in the jail directory,
// out of the VMM's reach, from before the VMM begins to run until Release.
type Record struct {
	PID int `json:"pid"`
	// StartTicks is the start of the process in clock ticks since boot.
	StartTicks uint64 `json:"start_ticks"`
	UID        int    `json:"uid"`
	// Dir is the jail directory's path.
	Dir string `json:"-"`
}

// ErrGone is a recorded VMM that does not run any more.
var ErrGone = errors.New("the VMM is gone")

// List returns the paths of the jail directories in parent, of VMMs that run and of
// those that left theirs.
func List(parent string) ([]string, error) {
	f, err := openParent(parent)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	names, err := f.Readdirnames(-1)
	if err != nil {
		return nil, fmt.Errorf("list jails: %v", err)
	}
	for i, name := range names {
		names[i] = filepath.Join(parent, name)
	}
	return names, nil
}

// Adopt finds the VMM of a jail directory again: the process with the recorded pid,
// start time and uid. Its command line proves nothing and is not looked at, nor is who
// serves the API socket, which may be a child of it, or nobody any more. If it has
// ended the error is ErrGone, and Remove is what is left to do.
//
// An adopted VMM is usually no child of the caller. Wait works all the same; whether
// the exit status is known depends on the kernel.
func Adopt(ctx context.Context, path string) (*Process, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("adopt VMM: %w", err)
	}
	d, err := findDir(path)
	if errors.Is(err, os.ErrNotExist) {
		err = fmt.Errorf("%w: %w", ErrGone, err) // the keeper died while it made the directory
	}
	if err != nil {
		return nil, fmt.Errorf("adopt VMM: %w", err)
	}
	p, err := adopt(d)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("adopt VMM in %s: %w", d.name, err), d.close())
	}
	return p, nil
}

func adopt(d *dir) (*Process, error) {
	r, err := d.readRecord()
	if errors.Is(err, os.ErrNotExist) {
		return nil, ErrGone // the keeper died before it sent the plan
	}
	if err != nil {
		return nil, err
	}
	// Pin the process first, then prove that it is the right one.
	pidfd, err := unix.PidfdOpen(r.PID, 0)
	if errors.Is(err, unix.ESRCH) || errors.Is(err, unix.EINVAL) {
		return nil, ErrGone
	}
	if err != nil {
		return nil, fmt.Errorf("open process %d: %v", r.PID, err)
	}
	if err := r.prove(pidfd); err != nil {
		return nil, errors.Join(err, unix.Close(pidfd))
	}
	return newProcess(pidfd, *r, d, isChild(r.PID))
}

// prove compares the process behind pidfd with the record.
func (r *Record) prove(pidfd int) error {
	ticks, err := startTicks(r.PID)
	if err != nil || ticks != r.StartTicks || readable(pidfd) {
		return ErrGone
	}
	var st unix.Stat_t
	if err := unix.Stat(fmt.Sprintf("/proc/%d", r.PID), &st); err != nil {
		return ErrGone
	}
	// A process that cannot be dumped belongs to root in /proc.
	if int(st.Uid) != r.UID && st.Uid != 0 {
		return ErrGone
	}
	// What was read by number was the pinned process's if that still runs.
	if readable(pidfd) {
		return ErrGone
	}
	return nil
}

// isChild reports whether pid is a child of this process.
func isChild(pid int) bool {
	var info unix.Siginfo
	return unix.Waitid(unix.P_PID, pid, &info, unix.WEXITED|unix.WNOHANG|unix.WNOWAIT, nil) == nil
}

// Remove removes the jail directory of a VMM that is gone, and refuses with ErrRunning
// if it is not. Removing what is not there is no error.
func Remove(ctx context.Context, path string) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("remove jail: %w", err)
	}
	d, err := findDir(path)
	if errors.Is(err, os.ErrNotExist) {
		if d, err = bareDir(path); d == nil {
			return err
		}
	}
	if err != nil {
		return err
	}
	p, err := adopt(d)
	switch {
	case err == nil:
		return errors.Join(fmt.Errorf("remove jail %s: %w", d.name, ErrRunning), p.Close())
	case errors.Is(err, ErrGone):
		return errors.Join(d.remove(), d.close())
	}
	return errors.Join(err, d.close())
}

// writeRecord publishes r in the jail directory.
func (d *dir) writeRecord(r Record) error {
	b, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("write record: %v", err)
	}
	at := int(d.root.Fd())
	const temp = recordName + ".new"
	fd, err := unix.Openat(at, temp, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return fmt.Errorf("write record: %v", err)
	}
	f := os.NewFile(uintptr(fd), temp)
	_, err = f.Write(b)
	if err := errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("write record: %v", err)
	}
	// No fsync: a record is worth nothing after the host went down, as is its process.
	if err := unix.Renameat(at, temp, at, recordName); err != nil {
		return fmt.Errorf("write record: %v", err)
	}
	return nil
}

// readRecord reads the record of a jail directory.
func (d *dir) readRecord() (*Record, error) {
	fd, err := unix.Openat(int(d.root.Fd()), recordName, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("read record: %w", err)
	}
	f := os.NewFile(uintptr(fd), recordName)
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, 4096))
	if err != nil {
		return nil, fmt.Errorf("read record: %v", err)
	}
	r := &Record{Dir: d.path()}
	if err := json.Unmarshal(b, r); err != nil {
		return nil, fmt.Errorf("read record: %v", err)
	}
	if r.PID <= 0 || r.UID <= 0 {
		return nil, errors.New("read record: no pid or uid in it")
	}
	return r, nil
}
