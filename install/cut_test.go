package install

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"banger/install/layout"
)

// killer is told what is done before it is done, and kills whoever tells it when it has
// heard so many lines.
type killer struct{ lines int }

type killed struct{}

func (k *killer) Write(p []byte) (int, error) {
	if k.lines == 0 {
		panic(killed{})
	}
	k.lines--
	return len(p), nil
}

// isKilled runs do and reports whether the killer has ended it.
func isKilled(t *testing.T, do func() error) (dead bool) {
	t.Helper()
	defer func() {
		if r := recover(); r != nil {
			if _, dead = r.(killed); !dead {
				panic(r)
			}
		}
	}()
	if err := do(); err != nil {
		t.Fatal(err)
	}
	return false
}

// installs are those that are cut short.
func installs(t *testing.T) map[string]func(root string) Options {
	scripts = t.TempDir()
	fc, jailer := script("Firecracker v1.15.1"), script("Jailer v1.15.1")
	return map[string]func(root string) Options{
		"": options,
		"prefix": func(root string) Options {
			o := options(root)
			o.Prefix = "/opt/banger"
			return o
		},
		"VMM": func(root string) Options {
			o := options(root)
			o.Firecracker, o.Jailer = fc, jailer
			return o
		},
	}
}

// Wherever an installer is killed, the next install finishes what it began, and
// uninstall takes it away.
func TestKilledInstall(t *testing.T) {
	for name, options := range installs(t) {
		t.Run(name, func(t *testing.T) {
			n, dead := 0, true
			for ; dead; n++ {
				cut := func() string {
					root := t.TempDir()
					o := options(root)
					o.Out = &killer{n}
					dead = isKilled(t, func() error { return Install(t.Context(), o) })
					return root
				}
				recovers(t, fmt.Sprintf("killed before step %d", n), options(cut()))
				removes(t, fmt.Sprintf("killed before step %d", n), cut())
			}
			if n < len(files) {
				t.Errorf("it was killed %d times only", n)
			}
		})
	}
}

// recovers installs and uninstalls as if nothing had happened.
func recovers(t *testing.T, when string, o Options) {
	t.Helper()
	vmm := o.Firecracker
	if err := Install(t.Context(), o); err != nil {
		t.Errorf("%s: install again: %v", when, err)
		return
	}
	r, err := layout.Decode(read(t, o.Root+layout.Metadata))
	if err != nil || (vmm != "") != (r.Firecracker.Path != "") {
		t.Errorf("%s: recorded %+v, %v", when, r, err)
	}
	removes(t, when+", installed again", o.Root)
}

// removes uninstalls. Where nothing is, it may say so.
func removes(t *testing.T, when, root string) {
	t.Helper()
	before := regular(tree(t, root))
	err := Uninstall(t.Context(), Options{Root: root, Out: io.Discard}, false)
	if err != nil && (len(before) > 0 || !errors.Is(err, ErrRefused)) {
		t.Errorf("%s: uninstall: %v", when, err)
	}
	if left := regular(tree(t, root)); len(left) > 0 {
		t.Errorf("%s: uninstalled, and there is still %v", when, left)
	}
}

// Wherever an uninstall is killed, the next one takes the rest away, also where the
// record cannot be read.
func TestKilledUninstall(t *testing.T) {
	for _, record := range []string{"", "layout = what"} {
		for n, dead := 0, true; dead; n++ {
			root := t.TempDir()
			if err := Install(t.Context(), options(root)); err != nil {
				t.Fatal(err)
			}
			if record != "" {
				if err := os.WriteFile(root+layout.Metadata, []byte(record), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			o := Options{Root: root, Out: &killer{n}}
			dead = isKilled(t, func() error { return Uninstall(t.Context(), o, false) })
			removes(t, fmt.Sprintf("record %q, killed before step %d", record, n), root)
		}
	}
}

// An install that finds no room, wherever that ends, is finished by the next one.
func TestInstallOnFullDisk(t *testing.T) {
	root := t.TempDir()
	mount := func(pages int) {
		if err := unix.Mount("tmpfs", root, "tmpfs", 0, fmt.Sprintf("mode=755,size=%d", pages*os.Getpagesize())); err != nil {
			t.Skipf("needs the right to mount: %v", err)
		}
	}
	unmount := func() { unix.Unmount(root, unix.MNT_DETACH) }
	t.Cleanup(unmount)
	for pages, full := 1, true; full; pages++ {
		mount(pages)
		err := Install(t.Context(), options(root))
		full = err != nil
		if full && !errors.Is(err, unix.ENOSPC) {
			t.Fatalf("%d pages: %v", pages, err)
		}
		if err := unix.Mount("", root, "", unix.MS_REMOUNT, "size=16m"); err != nil {
			t.Fatal(err)
		}
		recovers(t, fmt.Sprintf("full with %d pages", pages), options(root))
		unmount()
	}
}

// A file that a killed installer had not named yet goes with the next one; what only
// looks like such a file stays.
func TestLeftovers(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root to make files of others")
	}
	planted := []string{
		"/usr/local/bin/.banger-123", "/etc/banger/.banger-9", "/etc/systemd/system/.banger-44",
		"/etc/udev/rules.d/.banger-5", "/var/lib/banger-helper/bin/.banger-6",
	}
	plant := func(t *testing.T, root string) (foreign []string) {
		t.Helper()
		write := func(path string) string {
			if err := os.MkdirAll(filepath.Dir(root+path), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(root+path, nil, 0o600); err != nil {
				t.Fatal(err)
			}
			return path
		}
		link := func(target, path string) string {
			if err := os.Symlink(target, root+path); err != nil {
				t.Fatal(err)
			}
			return path
		}
		for _, path := range planted {
			write(path)
		}
		link("banger", "/usr/local/bin/bangerd.new")
		foreign = []string{
			write("/usr/local/bin/.banger-mine"), write("/usr/local/bin/.bangers-1"), write("/etc/systemd/system/.banger-77"),
			link("/etc/passwd", "/etc/udev/rules.d/.banger-8"), link("elsewhere", "/usr/local/bin/banger.new"),
		}
		if err := os.Chown(root+"/etc/systemd/system/.banger-77", 1000, 1000); err != nil {
			t.Fatal(err)
		}
		return foreign
	}
	for name, do := range map[string]func(root string) error{
		"install":   func(root string) error { return Install(t.Context(), options(root)) },
		"uninstall": func(root string) error { return Uninstall(t.Context(), Options{Root: root, Out: io.Discard}, false) },
	} {
		for _, installed := range []bool{false, true} {
			root := t.TempDir()
			if installed {
				if err := Install(t.Context(), options(root)); err != nil {
					t.Fatal(err)
				}
			}
			foreign := plant(t, root)
			if err := do(root); err != nil {
				t.Errorf("%s: %v", name, err)
			}
			left := regular(tree(t, root))
			for _, path := range append(planted, "/usr/local/bin/bangerd.new") {
				if slices.Contains(left, path) {
					t.Errorf("%s, installed %t: %s is still there", name, installed, path)
				}
			}
			for _, path := range foreign {
				if !slices.Contains(left, path) {
					t.Errorf("%s, installed %t: %s is gone", name, installed, path)
				}
			}
		}
	}
}

// The state of a banger that was never installed is purged, and a binary that somebody
// has copied stays.
func TestPurgeWithoutInstallation(t *testing.T) {
	root := t.TempDir()
	binary := root + layout.Binary(layout.DefaultPrefix)
	for _, dir := range []string{filepath.Dir(binary), root + layout.OwnerState + "/vms"} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(binary, []byte("copied by hand"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := Uninstall(t.Context(), Options{Root: root, Out: io.Discard}, true); err != nil {
		t.Fatal(err)
	}
	if got := string(read(t, binary)); got != "copied by hand" {
		t.Errorf("the binary is %q", got)
	}
	if _, err := os.Lstat(root + layout.OwnerState); err == nil {
		t.Error("the state is still there")
	}
}

// Of half an installation, units that systemd does not know are no reason to stop.
func TestTakeDownOfHalf(t *testing.T) {
	root := t.TempDir()
	if err := Install(t.Context(), options(root)); err != nil {
		t.Fatal(err)
	}
	var ran []string
	h := &host{root: root, out: new(bytes.Buffer), run: func(_ context.Context, argv ...string) error {
		ran = append(ran, strings.Join(argv, " "))
		return errors.New("no such unit")
	}}
	if !h.complete() {
		t.Error("an installation is not complete")
	}
	if err := h.takeDown(t.Context(), true); err == nil || len(ran) != 1 {
		t.Errorf("a whole one: %v, after %q", err, ran)
	}
	if err := h.remove(layout.UnitDir + "/" + layout.NetService); err != nil {
		t.Fatal(err)
	}
	if h.complete() {
		t.Error("an installation without one of its units is complete")
	}
	ran = nil
	if err := h.takeDown(t.Context(), false); err != nil || len(ran) < 4 {
		t.Errorf("half of one: %v, after %q", err, ran)
	}
}
