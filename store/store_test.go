package store

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
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
	got, err := Kind[rec](again, "vms").Load()
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
	got, err := vms.Load()
	if err != nil || len(got) != 0 {
		t.Fatalf("loaded %v, %v", got, err)
	}
	if _, err := os.Stat(vms.Path("half")); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("half-made folder is still there: %v", err)
	}
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
	got, err := vms.Load()
	if !errors.Is(err, ErrCorrupt) || len(got) != 1 || got["good"].Name != "good" {
		t.Fatalf("loaded %v, %v", got, err)
	}
	if _, err := os.Stat(path); err != nil {
		t.Fatalf("corrupt record was touched: %v", err)
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
