package host

import (
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"
)

// daemons are the processes that stay after a command, in the order in which
// they are ended.
var daemons = []string{"bangerd", "banger-helper"}

// look prints everything of the host's kernel that banger could leave behind,
// without asking banger. Loop devices are the machine's own and many, so only
// those over banger's files are told. What the first command of a boot makes
// below /run, empty folders, is there for the next.
// What is mounted below /tmp is the machine's, and other tests' to remove.
const look = `
ip -o link | awk '{print "link", $2}' | sed 's/@.*//; s/:$//'
ip -o addr | awk '$4 !~ /^fe80/ {print "address", $2, $4}'
ip route | sed 's/^/route /'
ip netns list | sed 's/^/netns /'
ip rule | sed 's/^/rule /'
nft list ruleset | sed 's/^/nft /'
awk '$5 !~ "^/tmp/" {print "mount", $5, $(NF-2)}' /proc/self/mountinfo
losetup --list --noheadings --output BACK-FILE | grep -E '/banger' | sed 's/^/loop /'
for s in net.ipv4.ip_forward net.ipv4.conf.all.forwarding; do echo sysctl $s $(sysctl -n $s); done
for p in /proc/[0-9]*; do
	c=$(tr '\0' ' ' <$p/cmdline 2>/dev/null) || continue
	case $c in sh*|tr*|''|banger-test-host*) ;; *) echo process $c ;; esac
done
find /run /var/lib/banger/vms /home/*/.local/share/banger/vms -mindepth 1 ! -type f 2>/dev/null | sed 's/^/file /' |
	grep -vxE 'file /run/banger(-helper(/(jails|logs|vms))?)?'
true
`

// Look returns what the host's kernel holds, one thing a line, sorted. It asks
// the kernel, not banger.
func (h *Host) Look() []string {
	h.t.Helper()
	lines := strings.Split(h.Must(Root, "sh", "-c", look), "\n")
	slices.Sort(lines)
	return lines
}

// Inventory returns what banger says is its own on the host, one thing a line,
// sorted. Numbers of processes are left out, since a daemon may have been
// started anew.
func (h *Host) Inventory(user User) []string {
	h.t.Helper()
	out := h.Must(user, "banger", "system", "inventory", "--output", "json")
	var v any
	if err := json.Unmarshal([]byte(out), &v); err != nil {
		h.t.Fatalf("inventory is no JSON: %v\n%s", err, out)
	}
	var lines []string
	flatten("", v, &lines)
	slices.Sort(lines)
	return lines
}

// pids are the numbers of processes in a detail.
var pids = regexp.MustCompile(`\bpid=\d+ ?`)

// flatten turns JSON into lines of path and value.
func flatten(path string, v any, lines *[]string) {
	switch v := v.(type) {
	case map[string]any:
		for key, value := range v {
			if key != "pid" {
				flatten(path+"."+key, value, lines)
			}
		}
	case []any:
		for _, value := range v {
			flatten(path, value, lines)
		}
	default:
		*lines = append(*lines, path+" "+pids.ReplaceAllString(fmt.Sprint(v), ""))
	}
}

// Difference returns what came, marked "+", and what went, marked "-".
func Difference(before, after []string) []string {
	var diff []string
	left := slices.Clone(before)
	for _, line := range after {
		if i := slices.Index(left, line); i >= 0 {
			left = slices.Delete(left, i, i+1)
		} else {
			diff = append(diff, "+ "+line)
		}
	}
	for _, line := range left {
		diff = append(diff, "- "+line)
	}
	return diff
}

// StopDaemons ends both daemons and waits until they are gone.
func (h *Host) StopDaemons() {
	h.t.Helper()
	for _, name := range daemons {
		for _, pid := range h.Pids(name) {
			h.Run(Root, "kill", fmt.Sprint(pid))
		}
		h.WaitGone(name, 20*time.Second)
	}
}

// WaitGone waits until no process of that name is left on the host.
func (h *Host) WaitGone(name string, timeout time.Duration) {
	h.t.Helper()
	deadline := time.Now().Add(timeout)
	for len(h.Pids(name)) > 0 {
		if time.Now().After(deadline) {
			h.t.Fatalf("%s: still there after %v", name, timeout)
		}
		time.Sleep(20 * time.Millisecond)
	}
}
