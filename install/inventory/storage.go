package inventory

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// mounts lists mounts at, or of, something of banger's.
func (c *collector) mounts() error {
	lines, err := c.lines("/proc/self/mountinfo")
	if err != nil {
		return err
	}
	for _, line := range lines {
		m, ok := parseMount(line)
		if ok && (c.within(m.point) || c.within(m.source)) {
			c.add("mount", m.point, m.fsType+" "+m.source)
		}
	}
	return nil
}

type mount struct{ point, fsType, source string }

// parseMount reads a line of mountinfo:
//
//	36 35 98:0 /root /mount/point rw,noatime master:1 - ext3 /dev/root rw
func parseMount(line string) (mount, bool) {
	before, after, ok := strings.Cut(line, " - ")
	left, right := strings.Fields(before), strings.Fields(after)
	if !ok || len(left) < 5 || len(right) < 2 {
		return mount{}, false
	}
	return mount{unescape(left[4]), right[0], unescape(right[1])}, true
}

// unescape undoes the octal escapes of blanks and backslashes in /proc files.
var unescape = strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace

// loops lists loop devices whose file is banger's.
func (c *collector) loops() error {
	names, err := c.entries("/sys/block")
	if err != nil {
		return err
	}
	for _, name := range names {
		if !strings.HasPrefix(name, "loop") {
			continue
		}
		if file := c.value("/sys/block/" + name + "/loop/backing_file"); c.within(file) {
			c.add("loop", name, file)
		}
	}
	return nil
}

// dm lists device mapper tables, which banger marks by their uuid.
func (c *collector) dm() error {
	names, err := c.entries("/sys/block")
	if err != nil {
		return err
	}
	mark := strings.ToUpper(c.Name) + "-"
	for _, name := range names {
		if !strings.HasPrefix(name, "dm-") {
			continue
		}
		if uuid := c.value("/sys/block/" + name + "/dm/uuid"); strings.HasPrefix(uuid, mark) {
			c.add("dm", c.value("/sys/block/"+name+"/dm/name"), uuid)
		}
	}
	return nil
}

// cgroupDepth is how deep banger's cgroups can be: a slice in a user's slice.
const cgroupDepth = 8

// cgroups lists the topmost cgroups that are banger's.
func (c *collector) cgroups() error {
	top := c.path("/sys/fs/cgroup")
	return absent(filepath.WalkDir(top, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			if p == top {
				return err
			}
			return nil // a cgroup that went while it was looked at
		}
		if !d.IsDir() {
			return nil
		}
		below, _ := filepath.Rel(top, p)
		if c.named(d.Name()) {
			c.add("cgroup", "/"+below, "")
			return fs.SkipDir
		}
		if strings.Count(below, "/") >= cgroupDepth {
			return fs.SkipDir
		}
		return nil
	}))
}

// units lists files of systemd's that are banger's.
func (c *collector) units() error {
	for _, dir := range []string{
		"/etc/systemd/system", "/run/systemd/system", "/run/systemd/transient",
		"/usr/local/lib/systemd/system", "/usr/lib/systemd/system",
	} {
		names, err := c.entries(dir)
		if err != nil {
			return err
		}
		for _, name := range names {
			if c.named(name) {
				c.add("unit", name, dir)
			}
		}
	}
	return nil
}

// jails lists the directories of VMs.
func (c *collector) jails() error {
	for _, dir := range c.Jails {
		names, err := c.entries(dir)
		if err != nil {
			return err
		}
		for _, name := range names {
			c.add("jail", name, dir)
		}
	}
	return nil
}

// runtime lists what of banger's is in /run, sockets and directories alike.
func (c *collector) runtime() error {
	names, err := c.entries("/run")
	if err != nil {
		return err
	}
	for _, name := range names {
		if c.named(name) {
			c.add("runtime", "/run/"+name, c.owner("/run/"+name))
		}
	}
	return nil
}

// owner describes the type and owner of a file.
func (c *collector) owner(p string) string {
	info, err := os.Lstat(c.path(p))
	if err != nil {
		return ""
	}
	detail := info.Mode().String()
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		detail += " uid=" + decimal(st.Uid)
	}
	return detail
}
