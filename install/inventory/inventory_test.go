package inventory

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// plant writes files below a root; a name that ends in a slash is a directory,
// and a content that begins with "-> " is a link.
func plant(t *testing.T, files map[string]string) string {
	t.Helper()
	root := t.TempDir()
	for name, content := range files {
		p := filepath.Join(root, name)
		must(t, os.MkdirAll(filepath.Dir(p), 0o755))
		target, isLink := strings.CutPrefix(content, "-> ")
		switch {
		case strings.HasSuffix(name, "/"):
			must(t, os.MkdirAll(p, 0o755))
		case isLink:
			must(t, os.Symlink(target, p))
		default:
			must(t, os.WriteFile(p, []byte(content), 0o644))
		}
	}
	return root
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// host is a host with other people's things, some of which look like banger's.
var host = map[string]string{
	"proc/self/mountinfo": "22 1 8:1 / / rw - ext4 /dev/vda1 rw\n" +
		"23 22 0:5 / /srv/bangers rw - tmpfs tmpfs rw\nbroken line\n",
	"proc/net/unix": "Num       RefCount Protocol Flags    Type St Inode Path\n" +
		"0000000000000000: 00000002 00000000 00010000 0001 01 1234 /run/dbus/system_bus_socket\n" +
		"0000000000000000: 00000002 00000000 00010000 0001 01 1235\n",
	"proc/sys/net/ipv4/ip_forward":      "0\n",
	"proc/7/cmdline":                    "/usr/bin/banger\x00vm\x00list\x00", // who asks
	"proc/7/stat":                       "7 (banger) S 1",
	"proc/8/cmdline":                    "/usr/bin/bangers-and-mash\x00",
	"proc/8/stat":                       "8 (x) S 1",
	"proc/9/cmdline":                    "bangerd\x00",
	"proc/9/stat":                       "9 (a) b) Z 1", // ended
	"sys/block/loop0/":                  "",
	"sys/block/loop1/loop/backing_file": "/srv/images/debian.img\n",
	"sys/block/dm-0/dm/uuid":            "LVM-xyz\n",
	"sys/block/dm-0/dm/name":            "banger-lookalike\n",
	"sys/class/net/eth0/ifalias":        "\n",
	"sys/class/net/lan/ifalias":         "bangers: the LAN\n",
	"sys/fs/cgroup/system.slice/":       "",
	"etc/systemd/system/ssh.service":    "",
	"run/sshd.pid":                      "1",
	"run/netns/blue":                    "",
}

func collect(t *testing.T, files ...map[string]string) Inventory {
	t.Helper()
	all := make(map[string]string)
	for _, m := range files {
		for k, v := range m {
			all[k] = v
		}
	}
	inv, err := Collect(t.Context(), Scope{
		Root: plant(t, all), Jails: []string{"/run/banger-helper/jails"},
		FirstUID: 1891237888, UIDs: 4096, Self: 7,
	})
	must(t, err)
	return inv
}

var clean = Inventory{
	Objects: []Object{{"sysctl", "net.ipv4.ip_forward", "0"}},
	Unread:  []string{},
}

func TestOthersThingsAreNotListed(t *testing.T) {
	if diff := cmp.Diff(clean, collect(t, host)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestAnEmptyRootIsNoError(t *testing.T) {
	want := Inventory{Objects: []Object{}, Unread: []string{}}
	if diff := cmp.Diff(want, collect(t)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// TestEachLeftoverIsSeen is the negative control: one thing is left behind, and
// the inventory must say so.
func TestEachLeftoverIsSeen(t *testing.T) {
	tests := []struct {
		name  string
		files map[string]string
		want  []Object
	}{
		{"mount", map[string]string{"proc/self/mountinfo": "40 22 0:4 net:[4026532] /run/netns/banger rw shared:1 - nsfs nsfs rw\n" +
			`41 22 0:9 / /mnt/a\040b/banger rw - tmpfs none rw` + "\n"},
			[]Object{{"mount", "/mnt/a b/banger", "tmpfs none"}, {"mount", "/run/netns/banger", "nsfs nsfs"}}},
		{"loop", map[string]string{"sys/block/loop3/loop/backing_file": "/home/u/.local/share/banger/disks/a (deleted)\n"},
			[]Object{{"loop", "loop3", "/home/u/.local/share/banger/disks/a (deleted)"}}},
		{"dm", map[string]string{"sys/block/dm-4/dm/uuid": "BANGER-web\n", "sys/block/dm-4/dm/name": "anything\n"},
			[]Object{{"dm", "anything", "BANGER-web"}}},
		{"cgroup", map[string]string{"sys/fs/cgroup/system.slice/banger.slice/banger-vm@a.service/": ""},
			[]Object{{"cgroup", "/system.slice/banger.slice", ""}}},
		{"unit", map[string]string{"run/systemd/transient/banger-vm@a.service": "", "etc/systemd/system/bangerd.service": ""},
			[]Object{{"unit", "banger-vm@a.service", "/run/systemd/transient"}, {"unit", "bangerd.service", "/etc/systemd/system"}}},
		{"network namespace", map[string]string{"run/netns/banger": ""},
			[]Object{{"netns", "banger", "/run/netns/banger"}}},
		{"link", map[string]string{"sys/class/net/veth3/ifalias": "banger:uplink\n", "sys/class/net/tap9/ifalias": "banger:web\n", "sys/class/net/tap9/owner": "4242\n"},
			[]Object{{"link", "tap9", "alias=banger:web owner=4242"}, {"link", "veth3", "alias=banger:uplink"}}},
		{"socket", map[string]string{"proc/net/unix": "Num\n" +
			"0000000000000000: 00000002 00000000 00010000 0001 01 1 /run/banger/a b.sock\n" +
			"0000000000000000: 00000003 00000000 00000000 0001 03 2 /run/banger/a b.sock\n" +
			"0000000000000000: 00000002 00000000 00010000 0001 01 3 @banger\n"},
			[]Object{{"socket", "/run/banger/a b.sock", ""}, {"socket", "@banger", ""}}},
		{"daemon", map[string]string{"proc/30/cmdline": "bangerd\x00", "proc/30/stat": "30 (a) b) S 1", "proc/30/exe": "-> /usr/bin/banger"},
			[]Object{{"process", "bangerd", "pid=30 uid=UID exe=/usr/bin/banger"}}},
		{"setting", map[string]string{"proc/sys/net/ipv4/ip_forward": "1\n"},
			[]Object{{"sysctl", "net.ipv4.ip_forward", "1"}}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := collect(t, host, tt.files)
			var extra []Object
			for _, o := range got.Objects {
				o.Detail = strings.ReplaceAll(o.Detail, "uid="+decimal(uint32(os.Getuid())), "uid=UID")
				if o != clean.Objects[0] {
					extra = append(extra, o)
				}
			}
			if diff := cmp.Diff(tt.want, extra); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestJailsAndRuntimeDirectories(t *testing.T) {
	got := collect(t, host, map[string]string{"run/banger-helper/jails/web-0badcafe/": ""})
	var names []string
	for _, o := range got.Objects {
		names = append(names, o.Kind+" "+o.Name)
	}
	want := []string{"jail web-0badcafe", "runtime /run/banger-helper", "sysctl net.ipv4.ip_forward"}
	if diff := cmp.Diff(want, names); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestProcessesAreKnownByTheUserOfAVM(t *testing.T) {
	files := map[string]string{
		"proc/50/cmdline": "./anything\x00", "proc/50/stat": "50 (x) R 1",
		"proc/51/cmdline": "bangerd\x00", "proc/51/stat": "51 (bangerd) Z 1",
	}
	self := uint32(os.Getuid()) // all files here are the test's
	for _, tt := range []struct {
		first, count uint32
		want         int
	}{{self, 1, 1}, {self, 0, 0}, {self + 1, 10, 0}} {
		inv, err := Collect(t.Context(), Scope{Root: plant(t, files), FirstUID: tt.first, UIDs: tt.count})
		must(t, err)
		if len(inv.Objects) != tt.want {
			t.Errorf("users %d+%d: %v, want %d", tt.first, tt.count, inv.Objects, tt.want)
		}
	}
}

func TestWhatCannotBeReadIsSaid(t *testing.T) {
	files := map[string]string{"run/netns": "a file where a directory should be"}
	for k, v := range host {
		if !strings.HasPrefix(k, "run/netns") {
			files[k] = v
		}
	}
	got := collect(t, files)
	if len(got.Unread) != 1 || !strings.HasPrefix(got.Unread[0], "network namespaces: ") {
		t.Errorf("unread %q", got.Unread)
	}
}

func TestCollectEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Collect(ctx, Scope{}); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

func FuzzParseMount(f *testing.F) {
	f.Add("36 35 98:0 /root /mount/point rw,noatime master:1 - ext3 /dev/root rw")
	f.Add(" - ")
	f.Add(`1 2 3 4 \040 - a b`)
	f.Fuzz(func(t *testing.T, line string) {
		if m, ok := parseMount(line); ok && (m.point == "" || m.fsType == "" || m.source == "") {
			t.Errorf("%q: %+v", line, m)
		}
	})
}
