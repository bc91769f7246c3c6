// Package halt ends a guest so that nothing is lost: processes first, then file
// systems, then the machine.
package halt

import (
	"fmt"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// killTime is how long the kernel may take to end processes that were killed.
const killTime = 5 * time.Second

// Now ends the guest: every process but PID 1 and the caller gets SIGTERM, and
// SIGKILL when grace is over; file systems are written and unmounted, or at least
// made read-only; the machine restarts, which ends its VMM. It returns only when
// that is refused.
func Now(grace time.Duration) error {
	// Once before, in case that what follows takes longer than the host waits.
	unix.Sync()
	stopAll(unix.SIGTERM, grace)
	stopAll(unix.SIGKILL, killTime)
	settle()
	unix.Sync()
	return Restart()
}

// Restart restarts the machine at once. It is a restart and no power-off, because
// Firecracker has no way to switch power off, and ends at a restart.
func Restart() error {
	if err := unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART); err != nil {
		return fmt.Errorf("restart machine: %w", err)
	}
	return nil
}

// stopAll sends sig to all processes, and waits until those that were there have
// ended, but not longer than timeout.
func stopAll(sig unix.Signal, timeout time.Duration) {
	waiting := openAll()
	defer func() {
		for _, p := range waiting {
			unix.Close(int(p.Fd))
		}
	}()
	// ESRCH: there is nobody else.
	_ = unix.Kill(-1, sig)
	_ = unix.Kill(-1, unix.SIGCONT)
	for deadline := time.Now().Add(timeout); len(waiting) > 0; {
		left := time.Until(deadline)
		if left <= 0 {
			return
		}
		_, err := unix.Poll(waiting, int(left.Milliseconds())+1)
		if err != nil && err != unix.EINTR {
			return
		}
		waiting = dropEnded(waiting)
	}
}

// dropEnded closes the processes that poll has found ended.
func dropEnded(list []unix.PollFd) []unix.PollFd {
	kept := list[:0]
	for _, p := range list {
		if p.Revents != 0 {
			unix.Close(int(p.Fd))
			continue
		}
		kept = append(kept, p)
	}
	return kept
}

// openAll opens a pidfd of every process but PID 1, the caller, and the kernel's.
func openAll() (list []unix.PollFd) {
	dir, err := os.Open("/proc")
	if err != nil {
		return nil
	}
	defer dir.Close()
	names, _ := dir.Readdirnames(-1)
	for _, name := range names {
		pid, err := strconv.Atoi(name)
		if err != nil || pid == 1 || pid == os.Getpid() {
			continue
		}
		// A kernel thread has no executable; a process that ends has none either.
		if _, err := os.Readlink("/proc/" + name + "/exe"); err != nil {
			continue
		}
		fd, err := unix.PidfdOpen(pid, 0)
		if err != nil {
			continue
		}
		list = append(list, unix.PollFd{Fd: int32(fd), Events: unix.POLLIN})
	}
	return list
}
