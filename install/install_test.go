package install

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"os/user"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"banger/install/layout"
)

// people are the users of the hosts in these tests.
var people = map[string]user.User{
	"alice":  {Uid: "1000", Gid: "1000", HomeDir: "/home/alice"},
	"root":   {Uid: "0", Gid: "0", HomeDir: "/root"},
	"daemon": {Uid: "1", Gid: "1", HomeDir: "/usr/sbin"},
	"nobody": {Uid: "65534", Gid: "65534", HomeDir: "/nonexistent"},
	"wheel":  {Uid: "1002", Gid: "0", HomeDir: "/home/wheel"},
	"vm":     {Uid: "5001", Gid: "5001", HomeDir: "/home/vm"},
	"homely": {Uid: "1003", Gid: "1003", HomeDir: "home"},
}

// options install below root for alice.
func options(root string) Options {
	return Options{
		Owner: "alice", Root: root, Binary: "/bin/true", Out: new(bytes.Buffer),
		Build:       Build{Version: "v1", Commit: "abc", Built: "2026-02-01T12:00:00+01:00"},
		UIDs:        layout.UIDs{First: 5000, Count: 100},
		PlanNetwork: func(context.Context) (netip.Prefix, error) { return netip.MustParsePrefix("10.99.0.0/16"), nil },
		Run:         func(context.Context, ...string) error { return errors.New("a package starts nothing") },
		lookup: func(name string) (*user.User, error) {
			u, ok := people[name]
			if !ok {
				return nil, user.UnknownUserError(name)
			}
			return &u, nil
		},
	}
}

// tree lists what is below root: paths, modes, link targets and contents.
func tree(t *testing.T, root string) map[string]string {
	t.Helper()
	found := make(map[string]string)
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		content := ""
		switch {
		case d.Type() == fs.ModeSymlink:
			content, err = os.Readlink(path)
		case d.Type().IsRegular():
			var data []byte
			data, err = os.ReadFile(path)
			content = string(data)
		}
		found[strings.TrimPrefix(path, root)] = info.Mode().String() + " " + content
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func TestInstallAndUninstallBelowRoot(t *testing.T) {
	root := t.TempDir()
	o := options(root)
	if err := Install(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	for path, mode := range map[string]string{
		"/usr/local/bin/banger":                     "-rwxr-xr-x",
		"/usr/local/bin/bangerd":                    "Lrwxrwxrwx banger",
		"/usr/local/bin/banger-helper":              "Lrwxrwxrwx banger",
		"/etc/banger/install.toml":                  "-rw-r--r--",
		"/etc/systemd/system/banger-vm@.service":    "-rw-r--r--",
		"/etc/systemd/system/banger-helper.service": "-rw-r--r--",
		"/etc/udev/rules.d/05-banger.rules":         "-rw-r--r--",
	} {
		if got := tree(t, root)[path]; !strings.HasPrefix(got, mode) {
			t.Errorf("%s is %.40q, want %s", path, got, mode)
		}
	}
	r, err := layout.Decode([]byte(strings.SplitN(tree(t, root)["/etc/banger/install.toml"], " ", 2)[1]))
	if err != nil {
		t.Fatal(err)
	}
	want := layout.Owner{Name: "alice", UID: 1000, GID: 1000, Home: "/home/alice"}
	if r.Owner != want || r.Version != "v1" || r.Network.String() != "10.99.0.0/16" || r.UIDs != o.UIDs {
		t.Errorf("recorded %+v", r)
	}

	o.Owner = "" // known by now
	said := new(bytes.Buffer)
	o.Out = said
	if err := Install(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	// The time of the installation is all that is new, if that.
	if n := strings.Count(said.String(), "\n"); n > 1 || n == 1 && !strings.Contains(said.String(), "install.toml") {
		t.Errorf("nothing was new, and yet:\n%s", said)
	}

	for _, dir := range []string{"/var/lib/banger/vms", "/var/lib/banger-helper/kernels", "/var/cache/banger"} {
		if err := os.MkdirAll(root+dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := Uninstall(t.Context(), Options{Root: root, Out: said}, false); err != nil {
		t.Fatal(err)
	}
	left := regular(tree(t, root))
	if len(left) > 0 || tree(t, root)["/var/lib/banger/vms"] == "" {
		t.Errorf("uninstalled, and there is still %v; the owner's state: %v", left, tree(t, root)["/var/lib/banger/vms"])
	}
	if err := Uninstall(t.Context(), Options{Root: root, Out: said}, true); err != nil {
		t.Fatal(err)
	}
	if tree(t, root)["/var/lib/banger"] != "" {
		t.Error("purged, and the owner's state is still there")
	}
}

// A state on a disk of its own is purged as any other; the disk stays mounted.
func TestPurgeOfMountPoint(t *testing.T) {
	root := t.TempDir()
	if err := Install(t.Context(), options(root)); err != nil {
		t.Fatal(err)
	}
	state := filepath.Join(root, layout.OwnerState)
	if err := os.MkdirAll(state, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", state, "tmpfs", 0, "mode=700,uid=1000,size=1m"); err != nil {
		t.Skipf("needs the right to mount: %v", err)
	}
	t.Cleanup(func() { unix.Unmount(state, unix.MNT_DETACH) })
	if err := os.MkdirAll(filepath.Join(state, "vms/x"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := Uninstall(t.Context(), Options{Root: root, Out: new(bytes.Buffer)}, true); err != nil {
		t.Fatal(err)
	}
	var st unix.Stat_t
	names, err := os.ReadDir(state)
	if err == nil {
		err = unix.Stat(state, &st)
	}
	if err != nil || len(names) > 0 || st.Uid != 0 {
		t.Errorf("%v, %v is in it, of uid %d", err, names, st.Uid)
	}
}

// regular are the paths that are not directories.
func regular(found map[string]string) (paths []string) {
	for path, what := range found {
		if what[0] != 'd' {
			paths = append(paths, path)
		}
	}
	return paths
}

func TestDryRunChangesNothing(t *testing.T) {
	root := t.TempDir()
	o := options(root)
	said := new(bytes.Buffer)
	o.DryRun, o.Out = true, said
	if err := Install(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	if got := tree(t, root); len(got) != 1 {
		t.Errorf("it made %v", got)
	}
	for _, f := range files {
		if !strings.Contains(said.String(), "write "+f.path+" ") {
			t.Errorf("it does not tell of %s", f.path)
		}
	}
}

func TestRefusals(t *testing.T) {
	for name, change := range map[string]func(*Options){
		"no owner":              func(o *Options) { o.Owner = "" },
		"root":                  func(o *Options) { o.Owner = "root" },
		"system user":           func(o *Options) { o.Owner = "daemon" },
		"nobody":                func(o *Options) { o.Owner = "nobody" },
		"group root":            func(o *Options) { o.Owner = "wheel" },
		"uid of a VM":           func(o *Options) { o.Owner = "vm" },
		"relative home":         func(o *Options) { o.Owner = "homely" },
		"unknown user":          func(o *Options) { o.Owner = "carol" },
		"shell":                 func(o *Options) { o.Owner = "alice;id" },
		"unit specifier":        func(o *Options) { o.Owner = "a%i" },
		"newline":               func(o *Options) { o.Owner = "alice\nUser=root" },
		"path":                  func(o *Options) { o.Owner = "../alice" },
		"relative prefix":       func(o *Options) { o.Prefix = "usr" },
		"prefix with dots":      func(o *Options) { o.Prefix = "/usr/../tmp" },
		"prefix with specifier": func(o *Options) { o.Prefix = "/opt/%h" },
		"no Firecracker":        func(o *Options) { o.Firecracker = "/bin/true" },
		"old Firecracker":       func(o *Options) { o.Firecracker = script("Firecracker v1.14.2") },
		"no such file":          func(o *Options) { o.Firecracker = "/nonexistent" },
		"jailer alone":          func(o *Options) { o.Jailer = script("Jailer v1.15.1") },
		"old jailer":            func(o *Options) { o.Jailer = script("Jailer v1.14.2") },
		"two versions":          func(o *Options) { o.Firecracker, o.Jailer = script("Firecracker v1.15.1"), script("Jailer v1.16.0") },
	} {
		t.Run(name, func(t *testing.T) {
			root := t.TempDir()
			o := options(root)
			scripts = t.TempDir()
			change(&o)
			err := Install(t.Context(), o)
			if !errors.Is(err, ErrRefused) {
				t.Errorf("%v is no refusal", err)
			}
			if got := tree(t, root); len(got) != 1 {
				t.Errorf("refused, and yet it made %v", got)
			}
		})
	}
}

var scripts string

// script makes a program that says a line.
func script(says string) string {
	path := filepath.Join(scripts, strings.ReplaceAll(says, " ", "-"))
	if err := os.WriteFile(path, []byte("#!/bin/sh\necho '"+says+"'\n"), 0o755); err != nil {
		panic(err)
	}
	return path
}

func TestFirecrackerIsCopied(t *testing.T) {
	root := t.TempDir()
	scripts = t.TempDir()
	o := options(root)
	o.Firecracker, o.Jailer = script("Firecracker v1.15.1"), script("Jailer v1.15.1")
	if err := Install(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	r, err := layout.Decode(read(t, root+layout.Metadata))
	if err != nil {
		t.Fatal(err)
	}
	if r.Firecracker.Version != "1.15.1" || len(r.Firecracker.SHA256) != 64 || r.Firecracker.Path != layout.Firecracker {
		t.Errorf("recorded %+v", r.Firecracker)
	}
	if r.Layout != layout.Version { // a binary that knows no jailer says that it is too old
		t.Errorf("layout %d", r.Layout)
	}
	if r.Jailer.Version != "1.15.1" || len(r.Jailer.SHA256) != 64 || r.Jailer.Path != layout.Jailer {
		t.Errorf("recorded %+v", r.Jailer)
	}
	for path, from := range map[string]string{layout.Firecracker: o.Firecracker, layout.Jailer: o.Jailer} {
		if !bytes.Equal(read(t, root+path), read(t, from)) {
			t.Errorf("%s differs from %s", path, from)
		}
	}
	// One of another version would not go with the one that is there.
	o.Firecracker, o.Jailer = script("Firecracker v1.16.0"), ""
	if err := Install(t.Context(), o); !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), "not of one version") {
		t.Errorf("a newer Firecracker alone: %v", err)
	}
	// An upgrade that names none keeps the one that is there.
	o.Firecracker = ""
	if err := Install(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	if again, _ := layout.Decode(read(t, root+layout.Metadata)); again.Firecracker != r.Firecracker || again.Jailer != r.Jailer {
		t.Errorf("after an upgrade: %+v, %+v", again.Firecracker, again.Jailer)
	}
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func TestForeignFilesStay(t *testing.T) {
	for _, path := range []string{
		"/etc/systemd/system/bangerd.service", "/etc/udev/rules.d/05-banger.rules", "/usr/local/bin/bangerd", "/usr/local/bin/banger",
	} {
		root := t.TempDir()
		if err := os.MkdirAll(filepath.Dir(root+path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(root+path, []byte("somebody else's"), 0o644); err != nil {
			t.Fatal(err)
		}
		before := tree(t, root)
		o := options(root)
		if err := Install(t.Context(), o); !errors.Is(err, ErrRefused) {
			t.Errorf("%s: install: %v", path, err)
		}
		// Of a program of our name it does not even know that it should look.
		if err := Uninstall(t.Context(), Options{Root: root, Out: o.Out}, true); !errors.Is(err, ErrRefused) {
			t.Errorf("%s: uninstall: %v", path, err)
		}
		if got := tree(t, root); fmt.Sprint(got) != fmt.Sprint(before) {
			t.Errorf("%s: was %v, is %v", path, before, got)
		}
	}
}

// Whoever says whose installation it is gets a record anew.
func TestBrokenRecord(t *testing.T) {
	root := t.TempDir()
	if err := Install(t.Context(), options(root)); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(root+layout.Metadata, []byte("layout = what"), 0o644); err != nil {
		t.Fatal(err)
	}
	nameless := options(root)
	nameless.Owner = ""
	if err := Install(t.Context(), nameless); !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), "--owner") {
		t.Errorf("without an owner: %v", err)
	}
	if err := Install(t.Context(), options(root)); err != nil {
		t.Errorf("with an owner: %v", err)
	}
	if err := os.WriteFile(root+layout.Metadata, []byte("layout = what"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := Uninstall(t.Context(), Options{Root: root, Out: new(bytes.Buffer)}, true); err != nil {
		t.Errorf("uninstall: %v", err)
	}
	if left := regular(tree(t, root)); len(left) > 0 {
		t.Errorf("uninstalled, and there is still %v", left)
	}
}

// An older banger takes the place of a newer one only when that is asked for.
func TestDowngrade(t *testing.T) {
	for name, c := range map[string]struct {
		build Build
		ok    bool
	}{
		"older":                 {Build{Version: "v2", Built: "2026-02-01T10:59:59Z"}, false},
		"of the same time":      {Build{Version: "v1-dirty", Built: "2026-02-01T11:00:00Z"}, true},
		"newer by a lower name": {Build{Version: "v0", Built: "2026-02-01T11:00:01Z"}, true},
		"without a time":        {Build{Version: "devel"}, true},
	} {
		t.Run(name, func(t *testing.T) {
			root := t.TempDir()
			if err := Install(t.Context(), options(root)); err != nil {
				t.Fatal(err)
			}
			before := fmt.Sprint(tree(t, root))
			o := options(root)
			o.Build, o.Binary = c.build, "/bin/false"
			err := Install(t.Context(), o)
			if c.ok {
				if err != nil {
					t.Error(err)
				}
				return
			}
			if !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), "--allow-downgrade") || fmt.Sprint(tree(t, root)) != before {
				t.Errorf("%v; it has changed something: %t", err, fmt.Sprint(tree(t, root)) != before)
			}
			o.AllowDowngrade = true
			if err := Install(t.Context(), o); err != nil {
				t.Errorf("when allowed: %v", err)
			}
			if r, err := layout.Decode(read(t, root+layout.Metadata)); err != nil || r.Version != c.build.Version {
				t.Errorf("recorded %+v, %v", r, err)
			}
		})
	}
}

// What a newer layout says, an older banger cannot know: it neither makes the
// record anew nor uninstalls, unless it is told to go back.
func TestNewerLayout(t *testing.T) {
	root := t.TempDir()
	if err := Install(t.Context(), options(root)); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(root+layout.Metadata, []byte("layout = 99\nowner = \"alice\"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	before := fmt.Sprint(tree(t, root))
	if err := Install(t.Context(), options(root)); !errors.Is(err, ErrRefused) || !errors.Is(err, layout.ErrNewer) {
		t.Errorf("install: %v", err)
	}
	if err := Uninstall(t.Context(), Options{Root: root, Out: new(bytes.Buffer)}, true); !errors.Is(err, ErrRefused) {
		t.Errorf("uninstall: %v", err)
	}
	if fmt.Sprint(tree(t, root)) != before {
		t.Error("refused, and yet something has changed")
	}
	o := options(root)
	o.AllowDowngrade = true
	if err := Install(t.Context(), o); err != nil {
		t.Errorf("when allowed: %v", err)
	}
}

func TestSourceThatAnybodyCanReplace(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "banger")
	if err := os.WriteFile(file, nil, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		dir, file fs.FileMode
		ok        bool
	}{
		{0o755, 0o755, true}, {0o775, 0o775, true}, {fs.ModeSticky | 0o777, 0o755, true},
		{0o777, 0o755, false}, {0o755, 0o757, false}, {fs.ModeSticky | 0o777, 0o777, false},
	} {
		if err := errors.Join(os.Chmod(dir, c.dir), os.Chmod(file, c.file)); err != nil {
			t.Fatal(err)
		}
		err := checkSource(file)
		if c.ok && err != nil || !c.ok && !errors.Is(err, ErrRefused) {
			t.Errorf("directory %v, file %v: %v", c.dir, c.file, err)
		}
	}
}

func TestNothingToUninstall(t *testing.T) {
	if err := Uninstall(t.Context(), Options{Root: t.TempDir(), Out: new(bytes.Buffer)}, false); !errors.Is(err, ErrRefused) {
		t.Errorf("uninstall: %v", err)
	}
}

func TestOwnerAndPrefixStay(t *testing.T) {
	root := t.TempDir()
	if err := Install(t.Context(), options(root)); err != nil {
		t.Fatal(err)
	}
	before := fmt.Sprint(tree(t, root))
	people["bob"] = user.User{Uid: "1010", Gid: "1010", HomeDir: "/home/bob"}
	other, moved := options(root), options(root)
	other.Owner = "bob"
	moved.Prefix = "/opt"
	for _, o := range []Options{other, moved} {
		if err := Install(t.Context(), o); !errors.Is(err, ErrRefused) {
			t.Errorf("owner %s, prefix %q: %v", o.Owner, o.Prefix, err)
		}
	}
	if fmt.Sprint(tree(t, root)) != before {
		t.Error("refused, and yet something has changed")
	}
}

func TestOnlyRoots(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root to make files of others")
	}
	dir := t.TempDir()
	for d := dir; d != os.TempDir(); d = filepath.Dir(d) {
		if err := os.Chmod(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	mk := func(name string, uid int, mode fs.FileMode) string {
		path := filepath.Join(dir, name)
		if err := errors.Join(os.Mkdir(path, 0o755), os.Chmod(path, mode), os.Chown(path, uid, 0)); err != nil {
			t.Fatal(err)
		}
		return path
	}
	link := filepath.Join(mk("links", 0, 0o755), "l")
	if err := os.Symlink(mk("target", 1000, 0o755), link); err != nil {
		t.Fatal(err)
	}
	for path, ok := range map[string]bool{
		"/usr/bin": true, "/usr/bin/missing": true, "/bin": true, "/tmp/x": false,
		mk("alices", 1000, 0o755): false, mk("group", 0, 0o775): false, mk("open", 0, 0o1777): false,
		filepath.Join(dir, "alices/below"): false, filepath.Join(link, "below"): false,
	} {
		if err := onlyRoots(path); (err == nil) != ok {
			t.Errorf("%s: %v, want ok %v", path, err, ok)
		}
	}
}
