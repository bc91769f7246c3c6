package store

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

type rec struct{ Name string }

func open(t *testing.T) *Store {
	t.Helper()
	s, err := Open(filepath.Join(t.TempDir(), "store"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func TestRecordsComeBack(t *testing.T) {
	s := open(t)
	vms := Kind[rec](s, "vms")
	for _, name := range []string{"a", "b"} {
		if err := vms.Save(name, rec{name}); err != nil {
			t.Fatal(err)
		}
	}
	if err := vms.Save("a", rec{"changed"}); err != nil {
		t.Fatal(err)
	}
	if err := vms.Delete("b"); err != nil {
		t.Fatal(err)
	}
	if err := vms.Delete("b"); err != nil {
		t.Fatalf("delete what is gone: %v", err)
	}
	s.Close()
	again, err := Open(s.Dir)
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	got, _, err := Kind[rec](again, "vms").Load()
	if err != nil || len(got) != 1 || got["a"].Name != "changed" {
		t.Fatalf("loaded %v, %v", got, err)
	}
}

func TestSecondWriterIsRefused(t *testing.T) {
	s := open(t)
	if _, err := Open(s.Dir); !errors.Is(err, ErrLocked) {
		t.Fatalf("open twice: %v, want ErrLocked", err)
	}
}

// A crash between the folder and the record leaves a folder that means nothing.
func TestFolderWithoutRecordIsRemoved(t *testing.T) {
	s := open(t)
	vms := Kind[rec](s, "vms")
	if err := os.Mkdir(vms.Path("half"), 0o700); err != nil {
		t.Fatal(err)
	}
	got, damaged, err := vms.Load()
	if err != nil || len(damaged) != 0 || len(got) != 0 {
		t.Fatalf("loaded %v, %v", got, err)
	}
	if _, err := os.Stat(vms.Path("half")); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("half-made folder is still there: %v", err)
	}
}

// What is published has its record from the beginning: a folder without one is half of
// a backup, of which the image beside it may be all that there is.
func TestPublishedFolderWithoutRecordIsToldAndKept(t *testing.T) {
	s := open(t)
	images := Kind[rec](s, "images")
	must(t, os.Mkdir(images.Path("half"), 0o700))
	file := filepath.Join(images.Path("half"), "image.ext4")
	must(t, os.WriteFile(file, nil, 0o600))
	for name, read := range map[string]func() (map[string]rec, []Damage, error){"look": images.Look, "load": images.Load} {
		got, damaged, err := read()
		if err != nil || len(got) != 0 || len(damaged) != 1 || damaged[0].ID != "half" || !errors.Is(damaged[0].Err, ErrCorrupt) {
			t.Errorf("%s: got %v, damaged are %v, %v", name, got, damaged, err)
		}
	}
	if _, err := os.Stat(file); err != nil {
		t.Errorf("what lay beside it: %v", err)
	}
	must(t, images.Delete("half"))
}

func TestCorruptRecordIsToldAndKept(t *testing.T) {
	s := open(t)
	vms := Kind[rec](s, "vms")
	if err := vms.Save("good", rec{"good"}); err != nil {
		t.Fatal(err)
	}
	if err := vms.Save("bad", rec{"bad"}); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(vms.Path("bad"), "record.json")
	if err := os.WriteFile(path, []byte("{half"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(s.Dir, "vms", "no-folder"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	got, damaged, err := vms.Load()
	if err != nil || len(got) != 1 || got["good"].Name != "good" {
		t.Fatalf("loaded %v, %v", got, err)
	}
	if len(damaged) != 2 || damaged[0].ID != "bad" || !errors.Is(damaged[0].Err, ErrCorrupt) {
		t.Fatalf("damaged: %v", damaged)
	}
	if _, err := os.Stat(path); err != nil {
		t.Fatalf("corrupt record was touched: %v", err)
	}
}

// Whoever only looks changes nothing, and whatever was planted in a record's place
// leads nowhere and holds nobody up.
func TestLookChangesNothing(t *testing.T) {
	s := open(t)
	vms := Kind[rec](s, "vms")
	must(t, vms.Save("good", rec{"a"}))
	must(t, os.Mkdir(vms.Path("half"), 0o700))
	must(t, os.WriteFile(filepath.Join(vms.Path("good"), unfinished+"1"), nil, 0o600))
	for id, plant := range map[string]func(path string) error{
		"torn":   func(p string) error { return os.WriteFile(p, []byte(`{"Na`), 0o600) },
		"link":   func(p string) error { return os.Symlink(filepath.Join(vms.Path("good"), recordFile), p) },
		"pipe":   func(p string) error { return unix.Mkfifo(p, 0o600) },
		"folder": func(p string) error { return os.Mkdir(p, 0o700) },
	} {
		must(t, os.Mkdir(vms.Path(id), 0o700))
		must(t, plant(filepath.Join(vms.Path(id), recordFile)))
	}
	must(t, os.WriteFile(vms.Path("file"), nil, 0o600))
	got, damaged, err := Kind[rec](Reader(s.Dir), "vms").Look()
	if err != nil || len(got) != 1 || got["good"].Name != "a" || len(damaged) != 5 {
		t.Errorf("got %v, %v, %v", got, damaged, err)
	}
	for _, d := range damaged {
		if !errors.Is(d.Err, ErrCorrupt) || !strings.Contains(d.Err.Error(), d.Path) {
			t.Errorf("%s: %v", d.ID, d.Err)
		}
	}
	for _, left := range []string{"half", "good/" + unfinished + "1"} {
		if _, err := os.Lstat(vms.Path(left)); err != nil {
			t.Errorf("looking has removed something: %v", err)
		}
	}
}

func TestPublishNeverReplaces(t *testing.T) {
	s := open(t)
	images := Kind[rec](s, "images")
	for i, want := range []error{nil, fs.ErrExist} {
		dir, err := os.MkdirTemp(s.TempDir(), "import-")
		if err != nil {
			t.Fatal(err)
		}
		if err := images.Publish("debian", dir, rec{"debian"}); !errors.Is(err, want) {
			t.Fatalf("publish %d: %v, want %v", i, err, want)
		}
	}
	left, err := os.ReadDir(s.TempDir())
	if err != nil || len(left) != 1 {
		t.Fatalf("temp folder holds %d entries (%v), want the refused import", len(left), err)
	}
}

func TestUnfinishedWorkIsRemovedAtOpen(t *testing.T) {
	s := open(t)
	if err := os.WriteFile(filepath.Join(s.TempDir(), "import"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	s.Close()
	again, err := Open(s.Dir)
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	left, err := os.ReadDir(again.TempDir())
	if err != nil || len(left) != 0 {
		t.Fatalf("temp folder holds %v, %v", left, err)
	}
}

// What would not be read again must not be acknowledged.
func TestRecordThatIsTooLargeIsRefused(t *testing.T) {
	s := open(t)
	vms := Kind[rec](s, "vms")
	if err := vms.Save("a", rec{strings.Repeat("x", maxRecord-64)}); err != nil {
		t.Fatal(err)
	}
	if err := vms.Save("a", rec{strings.Repeat("y", maxRecord)}); err == nil {
		t.Fatal("a record was written that Load refuses")
	}
	got, damaged, err := vms.Load()
	if err != nil || len(damaged) != 0 || got["a"].Name[0] != 'x' {
		t.Fatalf("the former record is lost: %v, %v", damaged, err)
	}
}

func TestUnfinishedWriteIsRemovedAtLoad(t *testing.T) {
	s := open(t)
	vms := Kind[rec](s, "vms")
	if err := vms.Save("a", rec{"a"}); err != nil {
		t.Fatal(err)
	}
	torn := filepath.Join(vms.Path("a"), unfinished+"123")
	if err := os.WriteFile(torn, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got, _, err := vms.Load(); err != nil || len(got) != 1 {
		t.Fatalf("loaded %v, %v", got, err)
	}
	if _, err := os.Stat(torn); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("half-written file is still there: %v", err)
	}
}

// Deleting is the way out of a full disk, so it works on one.
func TestDeleteOnFullDisk(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root to mount a small tmpfs")
	}
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=256k,nr_inodes=32"); err != nil {
		t.Skipf("needs to mount a tmpfs: %v", err)
	}
	t.Cleanup(func() { unix.Unmount(dir, unix.MNT_DETACH) })
	s, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	vms := Kind[rec](s, "vms")
	if err := vms.Save("a", rec{"a"}); err != nil {
		t.Fatal(err)
	}
	for i := 0; err == nil; i++ { // neither an inode nor a block is left
		err = os.WriteFile(filepath.Join(vms.Path("a"), fmt.Sprint("fill", i)), make([]byte, 16<<10), 0o600)
	}
	if !errors.Is(err, unix.ENOSPC) {
		t.Fatalf("fill: %v, want ENOSPC", err)
	}
	for i := 0; ; i++ {
		if err := os.Mkdir(filepath.Join(vms.Path("a"), fmt.Sprint("inode", i)), 0o700); err != nil {
			break
		}
	}
	if err := vms.Save("b", rec{"b"}); !errors.Is(err, unix.ENOSPC) {
		t.Fatalf("save on a full disk: %v, want ENOSPC", err)
	}
	if err := vms.Delete("a"); err != nil {
		t.Fatalf("delete on a full disk: %v", err)
	}
	if err := vms.Save("b", rec{"b"}); err != nil {
		t.Fatalf("save after delete: %v", err)
	}
}
