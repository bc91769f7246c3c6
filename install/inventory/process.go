package inventory

import (
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// processes lists what runs in one of banger's roles, or as the user of a VM.
func (c *collector) processes() error {
	names, err := c.entries("/proc")
	if err != nil {
		return err
	}
	for _, name := range names {
		pid, err := strconv.Atoi(name)
		if err != nil || pid == c.Self {
			continue
		}
		if p, ok := c.process(name); ok {
			c.add("process", p.role, "pid="+name+" uid="+decimal(p.uid)+p.exe)
		}
	}
	return nil
}

type process struct {
	role string
	uid  uint32
	exe  string
}

// process reads what a process is, and tells whether it is banger's. Its first
// argument is readable by all, and says the role; it is not trusted to be the
// only sign, as a VMM is free to change it.
func (c *collector) process(pid string) (process, bool) {
	info, err := os.Stat(c.path("/proc/" + pid))
	if err != nil {
		return process{}, false
	}
	p := process{}
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		p.uid = st.Uid
	}
	if c.state(pid) == "Z" {
		return process{}, false // has ended, and is its parent's to collect
	}
	argv0, _, _ := strings.Cut(c.value("/proc/"+pid+"/cmdline"), "\x00")
	p.role = filepath.Base(argv0)
	if exe, err := os.Readlink(c.path("/proc/" + pid + "/exe")); err == nil {
		p.exe = " exe=" + exe
	}
	return p, c.isRole(p.role) || c.isVM(p.uid)
}

// isRole knows the names under which banger runs for long. The command line
// itself is not one of them: it is whoever asks.
func (c *collector) isRole(name string) bool {
	return slices.Contains([]string{c.Name + "d", c.Name + "-helper", c.Name + "-vmm", c.Name + "-jail"}, name)
}

func (c *collector) isVM(uid uint32) bool {
	return uid >= c.FirstUID && uid-c.FirstUID < c.UIDs
}

// state is the letter behind the command's name in the process's stat.
func (c *collector) state(pid string) string {
	stat := c.value("/proc/" + pid + "/stat")
	_, after, _ := strings.Cut(stat[strings.LastIndexByte(stat, ')')+1:], " ")
	state, _, _ := strings.Cut(after, " ")
	return state
}

func decimal(n uint32) string { return strconv.FormatUint(uint64(n), 10) }
