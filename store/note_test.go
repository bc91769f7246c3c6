package store

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// TestNote is every order in which the end of the writer, or a power cut, can leave
// what was saved and noted.
func TestNote(t *testing.T) {
	const none = ""
	type records = *Records[rec]
	save := func(name string) func(records) error { return func(r records) error { return r.Save("a", rec{name}) } }
	note := func(name string) func(records) error { return func(r records) error { return r.Note("a", rec{name}) } }
	file := func(r records, name string) string { return filepath.Join(r.Path("a"), name) }
	torn := func(r records) error { return os.Truncate(file(r, noteFile), 20) }
	empty := func(r records) error { return os.Truncate(file(r, noteFile), 0) }
	lost := func(r records) error { return os.Remove(file(r, noteFile)) }
	// back brings the note that was there before the step back after it.
	back := func(step func(records) error) func(records) error {
		return func(r records) error {
			old, err := os.ReadFile(file(r, noteFile))
			return errors.Join(err, step(r), os.WriteFile(file(r, noteFile), old, 0o600))
		}
	}
	for name, c := range map[string]struct {
		steps []func(records) error
		want  string // that is loaded
	}{
		"a note alone":                           {[]func(records) error{note("1")}, "1"},
		"the last of two notes":                  {[]func(records) error{note("1"), note("2")}, "2"},
		"a note alone, torn":                     {[]func(records) error{note("1"), torn}, none},
		"a note after a record":                  {[]func(records) error{save("1"), note("2")}, "2"},
		"a note of the same":                     {[]func(records) error{save("1"), note("1")}, "1"},
		"a note after a record, lost":            {[]func(records) error{save("1"), note("2"), lost}, "1"},
		"a note after a record, torn":            {[]func(records) error{save("1"), note("2"), torn}, "1"},
		"a note after a record, empty":           {[]func(records) error{save("1"), note("2"), empty}, "1"},
		"a record after a note":                  {[]func(records) error{note("1"), save("2")}, "2"},
		"a record after a note, still there":     {[]func(records) error{note("1"), back(save("2"))}, "2"},
		"a record after a later note":            {[]func(records) error{save("1"), note("2"), save("3")}, "3"},
		"a record after a later note, still":     {[]func(records) error{save("1"), note("2"), back(save("3"))}, "3"},
		"a record put back from a backup, noted": {[]func(records) error{save("1"), note("2"), back(save("0"))}, "0"},
	} {
		t.Run(name, func(t *testing.T) {
			vms := Kind[rec](open(t), "vms")
			for _, step := range c.steps {
				must(t, step(vms))
			}
			looked, _, err := vms.Look()
			must(t, err)
			got, damaged, err := vms.Load()
			must(t, err)
			if got["a"].Name != c.want || looked["a"] != got["a"] || len(damaged) > 0 {
				t.Errorf("loaded %v, looked at %v, damaged are %v; want %q", got, looked, damaged, c.want)
			}
			if _, err := os.Stat(vms.Path("a")); (c.want == none) != errors.Is(err, fs.ErrNotExist) {
				t.Errorf("its folder: %v", err)
			}
		})
	}
}

// A damaged record is told, whatever was noted after it.
func TestNoteAfterDamage(t *testing.T) {
	vms := Kind[rec](open(t), "vms")
	must(t, vms.Save("a", rec{"1"}))
	must(t, vms.Note("a", rec{"2"}))
	must(t, os.Truncate(filepath.Join(vms.Path("a"), recordFile), 3))
	got, damaged, err := vms.Load()
	if err != nil || len(got) != 0 || len(damaged) != 1 {
		t.Errorf("loaded %v, damaged are %v, %v", got, damaged, err)
	}
}

// A note on a full disk fails, and what was noted before it holds.
func TestNoteOnFullDisk(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root to mount a small tmpfs")
	}
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=64k"); err != nil {
		t.Skipf("needs to mount a tmpfs: %v", err)
	}
	t.Cleanup(func() { unix.Unmount(dir, unix.MNT_DETACH) })
	s, err := Open(dir)
	must(t, err)
	defer s.Close()
	vms := Kind[rec](s, "vms")
	must(t, vms.Save("a", rec{"1"}))
	must(t, vms.Note("a", rec{"2"}))
	if err := os.WriteFile(filepath.Join(dir, "fill"), make([]byte, 64<<10), 0o600); !errors.Is(err, unix.ENOSPC) {
		t.Fatalf("fill: %v, want ENOSPC", err)
	}
	if err := vms.Note("a", rec{"3"}); !errors.Is(err, unix.ENOSPC) {
		t.Errorf("note: %v, want ENOSPC", err)
	}
	got, damaged, err := vms.Load()
	if err != nil || got["a"].Name != "2" || len(damaged) > 0 {
		t.Errorf("loaded %v, damaged are %v, %v", got, damaged, err)
	}
}
