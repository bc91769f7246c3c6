package etc

import (
	"os"
	"syscall"
	"testing"

	"banger/personas/guest/link"
)

const passwd = "root:x:0:0::/root:/bin/sh\ndev:x:1000:1001::/home/dev:/bin/sh\nnone:x:5:5:::/bin/sh\n"

func TestFilesOfAHome(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root to give files away")
	}
	files := []link.File{
		{Path: "~/.gitconfig", Mode: 0o644, Data: []byte("[user]")},
		{Path: "~/.config/a/b/c", Mode: 0o600, Data: []byte("c")},
		{Path: "/etc/motd", Mode: 0o644, Data: []byte("hello")},
	}
	tree := image(t, map[string]string{"/etc/passwd": passwd, "/home/dev/.gitconfig": "old"})
	config := link.BootConfig{Files: files, Exec: link.ExecDefaults{User: "dev:staff"}}
	if errs := tree.Apply(config, ""); len(errs) > 0 {
		t.Fatal(errs)
	}
	for name, want := range map[string]struct {
		mode     os.FileMode
		uid, gid uint32
	}{
		"/home/dev/.gitconfig":    {0o644, 1000, 1001},
		"/home/dev/.config":       {os.ModeDir | 0o700, 1000, 1001},
		"/home/dev/.config/a/b":   {os.ModeDir | 0o700, 1000, 1001},
		"/home/dev/.config/a/b/c": {0o600, 1000, 1001},
		"/etc/motd":               {0o644, 0, 0},
	} {
		info, err := os.Lstat(tree.path(name))
		if err != nil {
			t.Error(err)
			continue
		}
		st := info.Sys().(*syscall.Stat_t)
		if info.Mode() != want.mode || st.Uid != want.uid || st.Gid != want.gid {
			t.Errorf("%s: %v of %d:%d, want %+v", name, info.Mode(), st.Uid, st.Gid, want)
		}
	}
	if got := tree.read(t, "/home/dev/.gitconfig"); got != "[user]" {
		t.Errorf("got %q", got)
	}
	if entries, err := os.ReadDir(tree.path("/home/dev")); err != nil || len(entries) != 2 {
		t.Errorf("left behind: %v, %v", entries, err)
	}

	// Without a user it is root's, and a home that is not there is made.
	config.Exec.User = ""
	if errs := tree.Apply(config, ""); len(errs) > 0 {
		t.Fatal(errs)
	}
	if info, err := os.Stat(tree.path("/root")); err != nil || info.Mode() != os.ModeDir|0o700 {
		t.Errorf("/root: %v, %v", info, err)
	}
}

func TestFilesOfAHomeStayInIt(t *testing.T) {
	tree := image(t, map[string]string{
		"/etc/passwd": passwd, "/etc/shadow": "secret\n",
		"/home/dev/.config": "-> ../../etc", "/home/dev/.netrc": "-> ../../etc/shadow",
	})
	for _, c := range []struct{ user, path string }{
		{"dev", "~/.config/shadow"}, // through a link that leads out
		{"nobody", "~/x"},           // no such user
		{"none", "~/x"},             // no home
	} {
		config := link.BootConfig{Exec: link.ExecDefaults{User: c.user}, Files: []link.File{{Path: c.path, Data: []byte("mine")}}}
		if errs := tree.Apply(config, ""); len(errs) != 1 {
			t.Errorf("%s for %s: %v", c.path, c.user, errs)
		}
	}
	// A link in the file's own place is replaced, not written through.
	if os.Geteuid() == 0 {
		config := link.BootConfig{Exec: link.ExecDefaults{User: "dev"}, Files: []link.File{{Path: "~/.netrc", Mode: 0o600, Data: []byte("mine")}}}
		if errs := tree.Apply(config, ""); len(errs) > 0 {
			t.Error(errs)
		}
		if got := tree.read(t, "/home/dev/.netrc"); got != "mine" {
			t.Errorf(".netrc is %q", got)
		}
	}
	if got := tree.read(t, "/etc/shadow"); got != "secret\n" {
		t.Errorf("shadow is %q", got)
	}
}
