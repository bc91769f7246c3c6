package cli

import (
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"banger/personas/api"
)

func (d *fakeDaemon) config(w http.ResponseWriter, _ *http.Request) {
	d.with(func() { json.NewEncoder(w).Encode(d.settings) })
}

func TestConfigShow(t *testing.T) {
	d := newFake(t)
	d.settings = api.Settings{
		Path: "/home/x/config.toml", Found: true,
		Values:   []api.Setting{{Key: "cpus", Value: "3", Source: "/home/x/config.toml:1"}, {Key: "memory", Value: "1GiB", Source: "host"}},
		FileSync: []api.FileSync{{Host: "~/a", Guest: "~/b", Mode: "0600"}},
	}
	want := "KEY            VALUE              FROM\n" +
		"cpus           3                  /home/x/config.toml:1\n" +
		"memory         1GiB               host\n" +
		"file_sync[0]   ~/a to ~/b, 0600   /home/x/config.toml\n"
	if r := d.call("config", "show"); r.code != 0 || r.out != want {
		t.Errorf("%d %q\n%s", r.code, r.err, r.out)
	}
	var got api.Settings
	if r := d.call("config", "show", "--output", "json"); json.Unmarshal([]byte(r.out), &got) != nil || got.Values[1] != d.settings.Values[1] {
		t.Errorf("%d %q\n%s", r.code, r.err, r.out)
	}

	d.with(func() { d.settings.Error = &api.Error{Message: "/home/x/config.toml:3: cpus: no", HintText: "mend it"} })
	if r := d.call("config", "show"); r.code != exitFailed || r.out != "" || r.err != "banger: /home/x/config.toml:3: cpus: no\nhint: mend it\n" {
		t.Errorf("a broken file: %d %q\n%s", r.code, r.err, r.out)
	}
	if r := d.call("config", "path"); r.code != 0 || r.out != "/home/x/config.toml\n" {
		t.Errorf("its path: %d %q\n%s", r.code, r.err, r.out)
	}
}

// TestConfigEdit uses an editor that writes, and one that fails.
func TestConfigEdit(t *testing.T) {
	d := newFake(t)
	path := filepath.Join(t.TempDir(), "sub", "config.toml")
	d.settings = api.Settings{Path: path, Error: &api.Error{Message: "wrong"}}
	t.Setenv("VISUAL", "sh -c 'nothing'") // words are no shell's
	if os.Geteuid() == 0 {
		if r := d.call("config", "edit"); r.code != exitUsage || !strings.Contains(r.err, path) {
			t.Errorf("as root: %d %q", r.code, r.err)
		}
		if _, err := os.Stat(filepath.Dir(path)); err == nil {
			t.Error("root has made the folder")
		}
		return
	}
	script := filepath.Join(t.TempDir(), "editor")
	if err := os.WriteFile(script, []byte("#!/bin/sh\necho cpus = 1 >$2\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("VISUAL", script+" -w")
	if r := d.call("config", "edit"); r.code != exitFailed || !strings.Contains(r.err, "wrong") {
		t.Errorf("%d %q", r.code, r.err)
	}
	if b, err := os.ReadFile(path); err != nil || string(b) != "cpus = 1\n" {
		t.Errorf("%q, %v", b, err)
	}
}

// Ctrl-G of emacs and Ctrl-C in what vi runs are SIGINT to all of the terminal.
func TestEditorOutlivesItsKeys(t *testing.T) {
	dir := t.TempDir()
	script, path := filepath.Join(dir, "editor"), filepath.Join(dir, "config.toml")
	const text = "#!/bin/sh\nkill -INT $PPID\nkill -QUIT $PPID\nsleep 0.2\necho saved >$1\n"
	if err := os.WriteFile(script, []byte(text), 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("VISUAL", script)
	ctx, signals := catchSignals(t.Context())
	defer signals.stop()
	a := &app{in: os.Stdin, out: os.Stdout, err: os.Stderr, signals: signals}
	if err := a.edit(path); err != nil {
		t.Error(err)
	}
	if b, err := os.ReadFile(path); err != nil || string(b) != "saved\n" {
		t.Errorf("%q, %v", b, err)
	}
	if ctx.Err() != nil {
		t.Error("the editor's key has ended banger")
	}
}

// What is not given is left to the daemon; what is given overrides the
// configuration, even with what is built in.
func TestFlagsThatAreNotGiven(t *testing.T) {
	d := newFake(t)
	d.call("vm", "create", "--name", "a")
	d.call("vm", "create", "--name", "b", "--net", "internet", "--vmm", "auto", "--backend", "auto")
	d.with(func() {
		if s := d.specs[0]; s.Net != "" || s.VMM != "" || s.Backend != "" || s.CPUs != 0 || s.MemMiB != 0 || s.DiskBytes != 0 {
			t.Errorf("nothing was given, and was asked for: %+v", s)
		}
		if s := d.specs[1]; s.Net != api.NetInternet || s.VMM != api.VMMAuto || s.Backend != api.BackendAuto {
			t.Errorf("what was given is %+v", s)
		}
	})
	for _, flag := range []string{"--net=", "--net=lan", "--vmm=", "--backend=zfs"} {
		if r := d.call("vm", "create", flag); r.code != exitUsage {
			t.Errorf("%s: %d %q", flag, r.code, r.err)
		}
	}
}
