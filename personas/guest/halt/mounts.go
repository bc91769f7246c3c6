package halt

import (
	"bufio"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// settle unmounts what can be unmounted, last mounted first, and makes the rest
// read-only. What fails stays as it is: it was synced before.
func settle() {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return
	}
	targets := onDisk(f)
	f.Close()
	slices.Reverse(targets)
	for _, t := range targets {
		if t != "/" {
			_ = unix.Unmount(t, 0)
		}
	}
	for _, t := range targets {
		_ = unix.Mount("", t, "", unix.MS_REMOUNT|unix.MS_RDONLY, "")
	}
}

// onDisk lists the mount points of file systems that keep data, in order.
func onDisk(mountinfo io.Reader) (targets []string) {
	lines := bufio.NewScanner(mountinfo)
	for lines.Scan() {
		// ID parent major:minor root target options [tags...] - type source super
		before, after, ok := strings.Cut(lines.Text(), " - ")
		fields := strings.Fields(before)
		kind, _, _ := strings.Cut(after, " ")
		if !ok || len(fields) < 6 || inMemory(kind) {
			continue
		}
		targets = append(targets, unescape(fields[4]))
	}
	return targets
}

// inMemory reports whether a file system has nothing that a restart could lose.
func inMemory(kind string) bool {
	switch kind {
	case "proc", "sysfs", "devtmpfs", "devpts", "tmpfs", "ramfs", "rootfs", "cgroup", "cgroup2",
		"mqueue", "securityfs", "debugfs", "tracefs", "configfs", "bpf", "pstore", "hugetlbfs",
		"autofs", "binfmt_misc", "efivarfs", "fusectl", "nsfs":
		return true
	}
	return false
}

// unescape undoes the octal escapes of mountinfo.
func unescape(s string) string {
	var b strings.Builder
	for {
		i := strings.IndexByte(s, '\\')
		if i < 0 || i+4 > len(s) {
			b.WriteString(s)
			return b.String()
		}
		c, err := strconv.ParseUint(s[i+1:i+4], 8, 8)
		if err != nil {
			b.WriteString(s[:i+1])
			s = s[i+1:]
			continue
		}
		b.WriteString(s[:i])
		b.WriteByte(byte(c))
		s = s[i+4:]
	}
}
