package etc

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const (
	ours   = "0123456789ab4def8123456789abcdef"
	theirs = "ffffffffffff4fff8fffffffffffffff"
)

func TestMachineID(t *testing.T) {
	for name, test := range map[string]struct {
		files map[string]string
		first bool
		etc   string // then in /etc/machine-id
		dbus  string // and in D-Bus's file; empty: there is none
	}{
		"first boot: the image's goes": {map[string]string{"/etc/machine-id": theirs + "\n"}, true, ours, ""},
		"first boot: D-Bus's too": {map[string]string{
			"/etc/machine-id": theirs + "\n", "/var/lib/dbus/machine-id": theirs + "\n"}, true, ours, ours + "\n"},
		"first boot: a link stays one": {map[string]string{
			"/etc/machine-id": theirs + "\n", "/var/lib/dbus/machine-id": "-> ../../../etc/machine-id"}, true, ours, ours + "\n"},
		"later: the user's stays": {map[string]string{
			"/etc/machine-id": theirs + "\n", "/var/lib/dbus/machine-id": theirs + "\n"}, false, theirs, theirs + "\n"},
		"later: without newline":     {map[string]string{"/etc/machine-id": theirs}, false, theirs, ""},
		"later: by a link":           {map[string]string{"/etc/machine-id": "-> ../var/id", "/var/id": theirs + "\n"}, false, theirs, ""},
		"missing":                    {map[string]string{"/etc/x": ""}, false, ours, ""},
		"empty":                      {map[string]string{"/etc/machine-id": ""}, false, ours, ""},
		"reset":                      {map[string]string{"/etc/machine-id": "uninitialized\n"}, false, ours, ""},
		"no id":                      {map[string]string{"/etc/machine-id": "hello\n"}, false, ours, ""},
		"zeroes are none":            {map[string]string{"/etc/machine-id": "00000000000000000000000000000000\n"}, false, ours, ""},
		"a link to nothing":          {map[string]string{"/etc/machine-id": "-> /nowhere/id"}, false, ours, ""},
		"a link to itself":           {map[string]string{"/etc/machine-id": "-> machine-id"}, false, ours, ""},
		"a temporary file was left":  {map[string]string{"/etc/machine-id": "", "/etc/machine-id.banger": "x"}, false, ours, ""},
		"a temporary link was left":  {map[string]string{"/etc/machine-id": "", "/etc/machine-id.banger": "-> x", "/etc/x": "x"}, true, ours, ""},
		"/etc is a link in the tree": {map[string]string{"/etc": "-> usr/etc", "/usr/etc/machine-id": "\n"}, false, ours, ""},
	} {
		t.Run(name, func(t *testing.T) {
			tree := image(t, test.files)
			if err := tree.setMachineID(ours, test.first); err != nil {
				t.Fatal(err)
			}
			if got := readTrimmed(t, tree, "/etc/machine-id"); got != test.etc {
				t.Errorf("the id is %q, want %q", got, test.etc)
			}
			dbus, _ := os.ReadFile(tree.path("/var/lib/dbus/machine-id"))
			if string(dbus) != test.dbus {
				t.Errorf("D-Bus has %q, want %q", dbus, test.dbus)
			}
			if text, ok := test.files["/etc/x"]; ok && tree.read(t, "/etc/x") != text {
				t.Error("another file was written to")
			}
			if left, _ := filepath.Glob(tree.path("/etc/*.banger")); len(left) > 0 {
				t.Errorf("left over: %q", left)
			}
		})
	}
}

func readTrimmed(t *testing.T, tree Tree, name string) string {
	t.Helper()
	text := tree.read(t, name)
	if n := len(text); n > 0 && text[n-1] == '\n' {
		text = text[:n-1]
	}
	return text
}

// A tree whose links lead out of it is refused, and nothing outside is touched.
func TestMachineIDStaysInTree(t *testing.T) {
	outside := t.TempDir()
	victim := filepath.Join(outside, "machine-id")
	if err := os.WriteFile(victim, []byte(theirs), 0o644); err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		files  map[string]string
		refuse bool
	}{
		"the file is a link out":      {map[string]string{"/etc/machine-id": "-> " + victim}, false},
		"the directory is a link out": {map[string]string{"/etc": "-> " + outside}, true},
		"D-Bus's directory leads out": {map[string]string{"/etc/x": "", "/var/lib/dbus": "-> " + outside}, false},
	} {
		t.Run(name, func(t *testing.T) {
			tree := image(t, test.files)
			if err := tree.setMachineID(ours, true); (err != nil) != test.refuse {
				t.Errorf("got %v", err)
			}
			entries, err := os.ReadDir(outside)
			text, rerr := os.ReadFile(victim)
			if err != nil || rerr != nil || len(entries) != 1 || string(text) != theirs {
				t.Errorf("outside is now %v, %q", entries, text)
			}
		})
	}
}

// A pipe in the place of the file does not hold the boot.
func TestMachineIDIsAPipe(t *testing.T) {
	tree := image(t, map[string]string{"/etc/x": ""})
	if err := unix.Mkfifo(tree.path("/etc/machine-id"), 0o644); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- tree.setMachineID(ours, false) }()
	select {
	case err := <-done:
		if err != nil || readTrimmed(t, tree, "/etc/machine-id") != ours {
			t.Errorf("got %v", err)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("it waits for a writer")
	}
}
