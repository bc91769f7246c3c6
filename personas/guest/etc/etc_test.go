package etc

import (
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"banger/personas/guest/link"
)

// image makes a root file system of the given files; a text that begins with
// "-> " is a link.
func image(t *testing.T, files map[string]string) Tree {
	t.Helper()
	tree := Tree{Root: t.TempDir()}
	for name, text := range files {
		path := tree.path(name)
		err := os.MkdirAll(filepath.Dir(path), 0o755)
		if target, ok := strings.CutPrefix(text, "-> "); ok && err == nil {
			err = os.Symlink(target, path)
		} else if err == nil {
			err = os.WriteFile(path, []byte(text), 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return tree
}

func (t Tree) read(test *testing.T, name string) string {
	test.Helper()
	text, err := os.ReadFile(t.path(name))
	if err != nil {
		test.Fatal(err)
	}
	return string(text)
}

func network() *link.Network {
	return &link.Network{
		Addresses: []netip.Prefix{netip.MustParsePrefix("10.83.0.3/16")}, Gateway: netip.MustParseAddr("10.83.0.1"),
		DNS: []netip.Addr{netip.MustParseAddr("10.83.0.1")}, Search: []string{"vm"},
	}
}

const resolvConf = "nameserver 10.83.0.1\nsearch vm\n"

func TestResolver(t *testing.T) {
	for name, test := range map[string]struct {
		files map[string]string
		at    string // where the text is then
		link  string // what /etc/resolv.conf then leads to
	}{
		"plain file":             {map[string]string{"/etc/resolv.conf": "nameserver 9.9.9.9\n"}, "/etc/resolv.conf", ""},
		"no file":                {map[string]string{"/etc/x": ""}, "/etc/resolv.conf", ""},
		"stub of resolved":       {map[string]string{"/etc/resolv.conf": "-> ../run/systemd/resolve/stub-resolv.conf"}, "/run/systemd/resolve/stub-resolv.conf", "../run/systemd/resolve/stub-resolv.conf"},
		"absolute link into run": {map[string]string{"/etc/resolv.conf": "-> /run/resolvconf/resolv.conf"}, "/run/resolvconf/resolv.conf", "/run/resolvconf/resolv.conf"},
		"by var":                 {map[string]string{"/etc/resolv.conf": "-> /var/run/x"}, "/run/x", "/var/run/x"},
		"link to the disk":       {map[string]string{"/etc/resolv.conf": "-> /mnt/host/resolv.conf"}, "/etc/resolv.conf", ""},
		"link to itself":         {map[string]string{"/etc/resolv.conf": "-> resolv.conf"}, "/etc/resolv.conf", ""},
	} {
		t.Run(name, func(t *testing.T) {
			tree := image(t, test.files)
			for range 2 { // and again at the next boot
				if err := tree.setResolver(network()); err != nil {
					t.Fatal(err)
				}
			}
			if got := tree.read(t, test.at); got != resolvConf {
				t.Errorf("%s is %q", test.at, got)
			}
			if to, _ := os.Readlink(tree.path("/etc/resolv.conf")); to != test.link {
				t.Errorf("leads to %q, want %q", to, test.link)
			}
		})
	}
}

func TestHosts(t *testing.T) {
	extra := []link.Host{{Address: netip.MustParseAddr("10.83.0.1"), Names: []string{"host.vm", "gateway"}}}
	const block = "# banger: begin\n127.0.1.1\tweb.vm web\n10.83.0.1\thost.vm gateway\n# banger: end\n"
	for name, test := range map[string]struct{ old, want string }{
		"kept":            {"127.0.0.1 localhost\n1.2.3.4 mine\n", "127.0.0.1 localhost\n1.2.3.4 mine\n" + block},
		"without newline": {"127.0.0.1 localhost", "127.0.0.1 localhost\n" + block},
		"empty":           {"", plainHosts + block},
		"of another boot": {"127.0.0.1 localhost\n# banger: begin\n127.0.1.1\told\n# banger: end\n5.6.7.8 later\n", "127.0.0.1 localhost\n5.6.7.8 later\n" + block},
	} {
		t.Run(name, func(t *testing.T) {
			tree := image(t, map[string]string{"/etc/hosts": test.old})
			for range 2 {
				if err := tree.setHosts("web.vm", extra); err != nil {
					t.Fatal(err)
				}
				if got := tree.read(t, "/etc/hosts"); got != test.want {
					t.Fatalf("got %q, want %q", got, test.want)
				}
			}
		})
	}
}

func TestKeys(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root to give files away")
	}
	config := link.BootConfig{
		HostKey: "-----BEGIN KEY-----\nx\n-----END KEY-----\n", AuthorizedKeys: []string{"key one", "key two"},
		Exec: link.ExecDefaults{User: "dev:dev"},
	}
	tree := image(t, map[string]string{
		"/usr/sbin/sshd":                    "",
		"/etc/passwd":                       "root:x:0:0::/root:/bin/sh\ndev:x:1000:1000::/home/dev:/bin/sh\n",
		"/root/.ssh/authorized_keys":        "key zero\nkey two",
		"/home/dev/x":                       "",
		"/etc/ssh/ssh_host_ed25519_key":     "of the image",
		"/etc/ssh/ssh_host_ed25519_key.pub": "of the image",
	})
	for range 2 {
		if err := tree.setKeys(config); err != nil {
			t.Fatal(err)
		}
	}
	if got := tree.read(t, "/root/.ssh/authorized_keys"); got != "key zero\nkey two\nkey one\n" {
		t.Errorf("root's keys: %q", got)
	}
	if got := tree.read(t, "/home/dev/.ssh/authorized_keys"); got != "key one\nkey two\n" {
		t.Errorf("the user's keys: %q", got)
	}
	if got := tree.read(t, "/etc/ssh/ssh_host_ed25519_key"); got != config.HostKey {
		t.Errorf("host key: %q", got)
	}
	if tree.exists("/etc/ssh/ssh_host_ed25519_key.pub") {
		t.Error("the public half of another key is still there")
	}
	for name, mode := range map[string]os.FileMode{
		"/home/dev/.ssh": os.ModeDir | 0o700, "/home/dev/.ssh/authorized_keys": 0o600, "/etc/ssh/ssh_host_ed25519_key": 0o600,
	} {
		if info, err := os.Stat(tree.path(name)); err != nil || info.Mode() != mode {
			t.Errorf("%s: %v, %v", name, info.Mode(), err)
		}
	}
}

// A user of the guest must not lead root out of the user's home.
func TestKeysFollowNoLinkOut(t *testing.T) {
	tree := image(t, map[string]string{
		"/usr/sbin/sshd": "", "/etc/passwd": "dev:x:1000:1000::/home/dev:/bin/sh\n", "/etc/shadow": "secret\n",
		"/home/dev/.ssh/authorized_keys": "-> ../../../etc/shadow",
	})
	err := tree.setKeys(link.BootConfig{AuthorizedKeys: []string{"key"}, Exec: link.ExecDefaults{User: "dev"}})
	if err == nil {
		t.Error("the link was followed")
	}
	if got := tree.read(t, "/etc/shadow"); got != "secret\n" {
		t.Errorf("shadow is %q", got)
	}
}

func TestNoKeysWithoutSSHD(t *testing.T) {
	tree := image(t, map[string]string{"/etc/passwd": "root:x:0:0::/root:/bin/sh\n"})
	if err := tree.setKeys(link.BootConfig{HostKey: "key", AuthorizedKeys: []string{"key"}}); err != nil {
		t.Fatal(err)
	}
	if tree.exists("/etc/ssh") || tree.exists("/root") {
		t.Error("an image without sshd got its files")
	}
}

func TestFiles(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root to give files away")
	}
	tree := image(t, map[string]string{"/etc/old": "old"})
	err := tree.writeFiles([]link.File{
		{Path: "/etc/old", Mode: 0o600, Data: []byte("new")},
		{Path: "/opt/a/b/tool", Mode: 0o4755, UID: 5, GID: 6, Data: []byte("#!")},
	})
	if err != nil {
		t.Fatal(err)
	}
	if got := tree.read(t, "/etc/old"); got != "new" {
		t.Errorf("got %q", got)
	}
	info, err := os.Stat(tree.path("/opt/a/b/tool"))
	if err != nil || info.Mode() != os.ModeSetuid|0o755 {
		t.Errorf("got %v, %v", info.Mode(), err)
	}
	entries, err := os.ReadDir(tree.path("/etc"))
	if err != nil || len(entries) != 1 {
		t.Errorf("left behind: %v", entries)
	}
}

func TestSystemd(t *testing.T) {
	config := link.BootConfig{Hostname: "web", Network: network()}
	plain := image(t, map[string]string{"/etc/x": ""})
	if errs := plain.Apply(config, "eth0"); len(errs) > 0 {
		t.Fatal(errs)
	}
	if plain.exists("/run/systemd") {
		t.Error("hints for a systemd that is not there")
	}
	tree := image(t, map[string]string{"/usr/lib/systemd/systemd": "", "/etc/x": ""})
	for range 2 {
		if errs := tree.Apply(config, "eth0"); len(errs) > 0 {
			t.Fatal(errs)
		}
	}
	if to, _ := os.Readlink(tree.path("/run/systemd/system/serial-getty@ttyS0.service")); to != "/dev/null" {
		t.Errorf("the login on the serial port is not masked: %q", to)
	}
	got := tree.read(t, "/run/systemd/network/00-banger.network")
	for _, want := range []string{"Name=eth0\n", "Address=10.83.0.3/16\n", "Gateway=10.83.0.1\n", "DNS=10.83.0.1\n", "Domains=vm\n"} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q in %q", want, got)
		}
	}
}

func TestSoftenFstab(t *testing.T) {
	tree := image(t, map[string]string{"/dev/vdb": ""})
	const in = `# a comment
UUID=0b1 / ext4 errors=remount-ro 0 1
UUID=0b2 /home ext4 defaults 0 2
/dev/vdb /data ext4 defaults 0 2
/dev/sda1 /old ext4 defaults 0 2
LABEL=swap none swap sw 0 0
/dev/sdc /opt ext4 nofail 0 0
tmpfs /tmp tmpfs size=1g 0 0
host:/share /mnt nfs defaults 0 0`
	const want = `# a comment
UUID=0b1 / ext4 errors=remount-ro 0 1
UUID=0b2	/home	ext4	defaults,nofail,x-systemd.device-timeout=5s	0	2
/dev/vdb /data ext4 defaults 0 2
/dev/sda1	/old	ext4	defaults,nofail,x-systemd.device-timeout=5s	0	2
LABEL=swap	none	swap	sw,nofail,x-systemd.device-timeout=5s	0	0
/dev/sdc /opt ext4 nofail 0 0
tmpfs /tmp tmpfs size=1g 0 0
host:/share /mnt nfs defaults 0 0`
	got, changed := tree.soften(in)
	if !changed || got != want {
		t.Errorf("got %v\n%s", changed, got)
	}
	if again, changed := tree.soften(want); changed || again != want {
		t.Errorf("softened twice:\n%s", again)
	}
}
