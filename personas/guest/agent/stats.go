package agent

import (
	"bufio"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"banger/personas/guest/link"
	"banger/personas/guest/link/frame"
)

// loadScale is the fixed point of sysinfo's load averages.
const loadScale = 1 << 16

// stats tells how the guest is.
func (a *Agent) stats(w *frame.Writer) error {
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil {
		return fmt.Errorf("sysinfo: %w", err)
	}
	s := link.Stats{
		Version:       a.config.Version,
		KernelRelease: KernelRelease(),
		BootID:        BootID(),
		UptimeNanos:   int64(Uptime()),
		MemTotalBytes: info.Totalram * uint64(info.Unit),
		Processes:     int(info.Procs),
		Execs:         int(a.execs.Load()),
	}
	for i := range s.Load {
		s.Load[i] = float64(info.Loads[i]) / loadScale
	}
	var err error
	if s.MemAvailableBytes, err = memAvailable(); err != nil {
		return err
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(a.disk(), &fs); err != nil {
		return fmt.Errorf("statfs %q: %w", a.disk(), err)
	}
	s.DiskTotalBytes = fs.Blocks * uint64(fs.Bsize)
	s.DiskFreeBytes = fs.Bavail * uint64(fs.Bsize)
	return w.JSON(frame.Answer, s)
}

func (a *Agent) disk() string {
	if a.config.Disk == "" {
		return "/"
	}
	return a.config.Disk
}

// memAvailable is the kernel's guess of what programs may still take, in bytes.
func memAvailable() (uint64, error) {
	f, err := os.Open("/proc/meminfo")
	if err != nil {
		return 0, err
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if rest, ok := strings.CutPrefix(lines.Text(), "MemAvailable:"); ok {
			kib, err := strconv.ParseUint(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 10, 64)
			return kib << 10, err
		}
	}
	return 0, fmt.Errorf("read /proc/meminfo: no MemAvailable")
}

// KernelRelease is what uname -r prints.
func KernelRelease() string {
	var u unix.Utsname
	if unix.Uname(&u) != nil {
		return ""
	}
	return unix.ByteSliceToString(u.Release[:])
}

// BootID is the kernel's random id of this boot, or empty without /proc.
func BootID() string {
	id, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(id))
}

// Uptime is the age of the kernel.
func Uptime() time.Duration {
	var ts unix.Timespec
	if unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts) != nil {
		return 0
	}
	return time.Duration(ts.Nano())
}
