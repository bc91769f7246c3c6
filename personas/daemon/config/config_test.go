package config

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"banger/personas/api"
	"banger/personas/daemon/filesync"
)

const all = `
# what every VM gets
cpus = 3
memory = "1.5g"
disk = "20GiB"
image = "debian"
kernel = "cloud"
net = "full"
vmm = "qemu"
backend = "copy"

[[file_sync]]
host = "~/.gitconfig"

[[file_sync]]
host = ".config/nvim"
guest = "~/.config/nvim"
mode = "0644"
`

func TestParse(t *testing.T) {
	c, err := Parse("/f", []byte(all))
	if err != nil {
		t.Fatal(err)
	}
	want := api.VMSpec{
		CPUs: 3, MemMiB: 1536, DiskBytes: 20 << 30, Image: "debian", Kernel: "cloud",
		Net: api.NetFull, VMM: api.VMMQEMU, Backend: api.BackendCopy,
	}
	if diff := cmp.Diff(want, c.Spec); diff != "" {
		t.Error(diff)
	}
	sync := []filesync.Entry{{Host: ".gitconfig", Guest: ".gitconfig", Mode: 0o600}, {Host: ".config/nvim", Guest: ".config/nvim", Mode: 0o644}}
	if diff := cmp.Diff(sync, c.Sync); diff != "" {
		t.Error(diff)
	}
	if got := c.Source("vmm"); got != "/f:9" {
		t.Errorf("vmm is at %q", got)
	}
	inline, err := Parse("/f", []byte(`file_sync = [{host = ".gitconfig"}, {host = ".config/nvim", mode = "0644"}]`))
	if err != nil || !cmp.Equal(inline.Sync, sync) {
		t.Errorf("inline: %+v, %v", inline.Sync, err)
	}
}

// What is wrong is told with its line and its key, and all of it.
func TestParseSaysWhatIsWrong(t *testing.T) {
	for name, c := range map[string]struct {
		text string
		want []string
	}{
		"unknown key":      {"cpus = 1\ncpu = 2", []string{`/f:2: unknown key "cpu": did you mean "cpus"?`}},
		"abbreviated":      {"mem = \"1g\"", []string{`/f:1: unknown key "mem": did you mean "memory"?`}},
		"longer":           {"\ndisk_size = \"1g\"", []string{`/f:2: unknown key "disk_size": did you mean "disk"?`}},
		"letters swapped":  {"kerenl = \"x\"", []string{`/f:1: unknown key "kerenl": did you mean "kernel"?`}},
		"like nothing":     {"colour = 1", []string{`/f:1: unknown key "colour": want one of cpus, memory, disk, image, kernel, net, vmm, backend, file_sync`}},
		"unknown table":    {"cpus = 1\n[vm]\ncpus = 2", []string{`/f:2: unknown key "vm": did you mean "vmm"?`}},
		"case":             {"CPUs = 1", []string{`/f:1: unknown key "CPUs": did you mean "cpus"?`}},
		"root's":           {"firecracker_bin = \"/opt/fc\"", []string{"/f:1: firecracker_bin: which Firecracker runs is for root to say, not for this file"}},
		"no number":        {"cpus = \"2\"", []string{"/f:1: cpus: want a number from 1 to 32"}},
		"too many":         {"cpus = 33", []string{"/f:1: cpus: want a number from 1 to 32"}},
		"none":             {"cpus = 0", []string{"/f:1: cpus: want a number from 1 to 32"}},
		"fraction":         {"cpus = 1.5", []string{"/f:1: cpus: want a number from 1 to 32"}},
		"no unit":          {"memory = 512", []string{`/f:1: memory: want a string with a unit, such as "512m" or "2GiB"`}},
		"no unit in words": {"memory = \"512\"", []string{`/f:1: memory: want a string with a unit, such as "512m" or "2GiB"`}},
		"too little":       {"memory = \"1m\"", []string{"/f:1: memory: 1MiB: want 96 MiB to 1024 GiB"}},
		"negative":         {"disk = \"-1g\"", []string{`/f:1: disk: want a string with a unit, such as "512m" or "2GiB"`}},
		"small disk":       {"disk = \"1m\"", []string{"/f:1: disk: 1048576 bytes: want 64 MiB to 16 TiB"}},
		"unknown mode":     {"\n\nnet = \"lan\"", []string{`/f:3: net: "lan": want none, internet, full`}},
		"no word":          {"vmm = true", []string{"/f:1: vmm: want a string that is not empty"}},
		"empty":            {"image = \"\"", []string{"/f:1: image: want a string that is not empty"}},
		"syntax":           {"cpus = 1\nmemory = ", []string{"/f:2: unexpected EOF; expected value"}},
		"twice":            {"cpus = 1\ncpus = 2", []string{"/f:2: Key 'cpus' has already been defined."}},
		"several": {"cpus = 99\nmemory = 1\nvm = 1", []string{
			"/f:1: cpus: want a number from 1 to 32",
			`/f:2: memory: want a string with a unit, such as "512m" or "2GiB"`,
			`/f:3: unknown key "vm": did you mean "vmm"?`,
		}},
		"entries by their index": {
			"[[file_sync]]\nhost = \"~/a\"\n\n[[file_sync]]\nhost = \"/etc/passwd\"\n[[file_sync]]\nhost = \"b\"\nguset = \"c\"\n" +
				"[[file_sync]]\nhost = \"c\"\nmode = 600\n[[file_sync]]\n[[file_sync]]\nhost = \"d\"\nmode = \"7777\"\n[[file_sync]]\nhost = \"a\"\n[[file_sync]]\nhost=\"e\"\nguest=\"../e\"",
			[]string{
				`/f:5: file_sync[1].host: "/etc/passwd": want a path below the home, such as ~/.gitconfig`,
				`/f:8: unknown key "file_sync[2].guset": did you mean "guest"?`,
				`/f:11: file_sync[3].mode: want a string of octal digits, such as "0600"`,
				`/f:12: file_sync[4].host: it is missing`,
				`/f:15: file_sync[5].mode: "7777": want three octal digits, such as "0600"`,
				`/f:16: file_sync[6]: guest "a" is that of file_sync[0] too`,
				`/f:20: file_sync[7].guest: "../e": leads out of the home`,
			},
		},
		"one table":  {"[file_sync]\nhost = \"a\"", []string{"/f:1: file_sync: want tables that begin with [[file_sync]]"}},
		"no table":   {"file_sync = [\"a\"]", []string{"/f:1: file_sync: want tables that begin with [[file_sync]]"}},
		"no entries": {"file_sync = 1", []string{"/f:1: file_sync: want tables that begin with [[file_sync]]"}},
		"too many entries": {strings.Repeat("[[file_sync]]\n", filesync.MaxEntries+1),
			[]string{"/f:1: file_sync: 65 entries: want at most 64"}},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := Parse("/f", []byte(c.text))
			if err == nil {
				t.Fatalf("it was taken: %+v", got)
			}
			if diff := cmp.Diff(strings.Join(c.want, "\n"), err.Error()); diff != "" {
				t.Error(diff)
			}
			var all Errors
			if !errors.As(err, &all) || len(all) != len(c.want) {
				t.Errorf("%d errors", len(all))
			}
		})
	}
	_, err := Parse("/f", []byte(`firecracker_bin = "x"`))
	var hinted interface{ Hint() string }
	if !errors.As(err, &hinted) || !strings.Contains(hinted.Hint(), "system install --firecracker") {
		t.Errorf("no way out is told: %v", err)
	}
}

func TestLoad(t *testing.T) {
	path := filepath.Join(t.TempDir(), "config.toml")
	if c, found, err := Load(path); err != nil || found || c.Source("cpus") != "" {
		t.Errorf("a file that is not there: %+v, %t, %v", c, found, err)
	}
	write := func(text string, mode fs.FileMode) {
		t.Helper()
		if err := errors.Join(os.WriteFile(path, []byte(text), 0o600), os.Chmod(path, mode)); err != nil {
			t.Fatal(err)
		}
	}
	write("cpus = 1", 0o644)
	if c, found, err := Load(path); err != nil || !found || c.Spec.CPUs != 1 {
		t.Errorf("%+v, %t, %v", c, found, err)
	}
	write("cpus = 2", 0o644) // in the same moment, with the same length
	if c, _, err := Load(path); err != nil || c.Spec.CPUs != 2 {
		t.Errorf("after a change: %+v, %v", c, err)
	}
	bad := func(what, want string) {
		t.Helper()
		if _, found, err := Load(path); !found || err == nil || !strings.Contains(err.Error(), want) || !strings.HasPrefix(err.Error(), path+": ") {
			t.Errorf("%s: %t, %v", what, found, err)
		}
	}
	write("cpus = 2", 0o664)
	bad("a file that a group can write", "others can write it")
	write(strings.Repeat("#", maxBytes+1), 0o600)
	bad("a file that is too large", "KiB")
	if os.Geteuid() == 0 {
		if err := os.Chown(path, 12345, 0); err != nil {
			t.Fatal(err)
		}
		bad("a stranger's file", "another user")
	}
	if err := errors.Join(os.Remove(path), os.Mkdir(path, 0o700)); err != nil {
		t.Fatal(err)
	}
	bad("a directory", "no regular file")
}

// The order is: the user, the file, the host, what is built in.
func TestFill(t *testing.T) {
	c, err := Parse("/f", []byte("cpus = 3\nnet = \"none\""))
	if err != nil {
		t.Fatal(err)
	}
	host := Host{CPUs: 8, MemMiB: 8 << 10}
	spec := api.VMSpec{Net: api.NetFull}
	c.Fill(&spec, host)
	want := api.VMSpec{CPUs: 3, MemMiB: 1024, DiskBytes: 10 << 30, Net: api.NetFull, VMM: api.VMMAuto, Backend: api.BackendAuto}
	if diff := cmp.Diff(want, spec); diff != "" {
		t.Error(diff)
	}
	got := make(map[string]string)
	for _, s := range c.Settings(host) {
		got[s.Key] = s.Value + " of " + s.Source
	}
	if diff := cmp.Diff(map[string]string{
		"cpus": "3 of /f:1", "memory": "1GiB of host", "disk": "10GiB of built-in", "net": "none of /f:2",
		"image": " of ", "kernel": " of ", "vmm": "auto of built-in", "backend": "auto of built-in",
	}, got); diff != "" {
		t.Error(diff)
	}
}

func TestHostsShare(t *testing.T) {
	for _, c := range []struct {
		host         Host
		cpus, memMiB int
	}{
		{Host{}, 1, 512}, {Host{1, 1000}, 1, 512}, {Host{2, 8 << 10}, 2, 1024}, {Host{4, 15900}, 4, 1792}, {Host{64, 1 << 20}, 4, 2048},
	} {
		if got := c.host.share(); got.CPUs != c.cpus || got.MemMiB != c.memMiB {
			t.Errorf("%+v gives %d CPUs and %d MiB", c.host, got.CPUs, got.MemMiB)
		}
	}
	if h := ThisHost(); h.CPUs < 1 || h.MemMiB < 64 {
		t.Errorf("this host has %+v", h)
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(all))
	f.Add([]byte("file_sync = [{host = \"x\"}]\n[[a]]\nb = '''\ncpus = 1\n'''"))
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := Parse("/f", data)
		if err != nil {
			if strings.Count(err.Error(), "/f") == 0 {
				t.Errorf("nameless: %v", err)
			}
			return
		}
		if err := c.Spec.Validate(); err != nil {
			t.Errorf("it let through: %v", err)
		}
		for _, e := range c.Sync {
			if !filepath.IsLocal(e.Host) || !filepath.IsLocal(e.Guest) || e.Mode&^0o777 != 0 {
				t.Errorf("it let through: %+v", e)
			}
		}
	})
}
