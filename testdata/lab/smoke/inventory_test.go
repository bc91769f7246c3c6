package smoke_test

import (
	"fmt"
	"slices"
	"strings"

	"github.com/rogpeppe/go-internal/testscript"

	"banger/testdata/host"
	"banger/testdata/lab/talk"
)

func inventory(ts *testscript.TestScript, neg bool, args []string) {
	s := scene(ts, args, 2)
	r, err := s.host.Run(s.host.Life(), talk.Command{User: "root", Args: []string{"sh", "-c", look}})
	s.check(ts, err)
	if r.Code != 0 {
		ts.Fatalf("look at the host: %v", r)
	}
	now := strings.Split(strings.TrimSpace(r.Stdout), "\n")
	slices.Sort(now)
	switch verb, name := args[0], args[1]; verb {
	case "save":
		s.looks[name] = now
	case "compare":
		diff := host.Difference(s.looks[name], now)
		fmt.Fprintln(ts.Stdout(), strings.Join(diff, "\n"))
		if len(diff) > 0 != neg {
			ts.Fatalf("the host is the same: %t", len(diff) == 0)
		}
	default:
		ts.Fatalf("no such verb: %s", verb)
	}
}

// look prints everything that banger could leave behind on a host, without
// asking banger: what the kernel has, what systemd knows, and all files but
// those in which a host keeps its own diary, and what systemd makes devices in.
// Loop devices are the kernel's: the file /disk is that of another host, which runs
// the scenario disks.
const look = `
for tool in ip nft losetup dmsetup sysctl ss ps systemctl; do command -v $tool >/dev/null || { echo "no $tool" >&2; exit 1; }; done
ip -o link | awk '{print "link", $2}' | sed 's/@.*//; s/:$//'
ip -o addr | awk '$4 !~ /^fe80/ {print "address", $2, $4}'
ip route | sed 's/^/route /'
ip rule | sed 's/^/rule /'
ip netns list | sed 's/ .*//; s/^/netns /'
nft list ruleset | sed 's/^/nft /'
awk '{print "mount", $5, $(NF-2)}' /proc/self/mountinfo
losetup --list --noheadings --output BACK-FILE | grep -v '^/disk$' | sed 's/^/loop /'
dmsetup ls 2>/dev/null | sed 's/^/dm /'
sysctl -a 2>/dev/null | grep -E '^net\.(ipv4|ipv6)\.(ip_forward|conf\.(all|default)\.)' | sed 's/^/sysctl /'
ss -Hlnxtu | awk '{print "socket", $1, $5}' | sed 's/ \*$//'
ps -e -o user=,args= --ppid 2 -p 2 --deselect | grep -vE ' (sh -c|ps -e|grep|sed|strace|sleep|systemctl show|systemd-userwork|/lib/systemd/systemd-(udevd|hostnamed|timedated))' | sed 's/^/process /'
systemctl list-unit-files --no-legend | awk '{print "unit file", $1, $2}'
systemctl list-units --all --no-legend --plain --type=service,socket,slice,mount,target | awk '$1 !~ /^(run-|systemd-(udevd|hostnamed|timedated)|user)/ {print "unit", $1, $3}'
cut -d: -f1,3,4,6,7 /etc/passwd | sed 's/^/user /'
find / -xdev \( -path /proc -o -path /sys -o -path /cover -o -path /var/log -o -path /var/lib/systemd -o -path /var/tmp -o -path '/tmp/namespace-dev-*' -o -path '/usr/local/lib/systemd' \) -prune -o -printf 'file %M %U:%G %p %l\n'
find /run -xdev \( -path /run/systemd -o -path /run/udev -o -path /run/lab \) -prune -o -printf 'file %M %U:%G %p %l\n'
find /etc -xdev -type f -exec cksum {} + | sed 's/^/content /'
true
`
