package image

import (
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// wantContents wants an image to have exactly the given files (and directories of any name),
// by content; that of a symbolic link begins with "-> ". It reads by debugfs, without a mount.
func wantContents(t testing.TB, img string, want map[string]string) {
	t.Helper()
	if _, err := exec.LookPath("debugfs"); err != nil {
		t.Skip("debugfs is missing")
	}
	dir := t.TempDir()
	if out, err := exec.Command("debugfs", "-R", fmt.Sprintf("rdump / %q", dir), img).CombinedOutput(); err != nil {
		t.Fatalf("debugfs: %v\n%s", err, out)
	}
	got := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		name, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		if d.Type() == fs.ModeSymlink {
			target, err := os.Readlink(path)
			got[name] = "-> " + target
			return err
		}
		data, err := os.ReadFile(path)
		got[name] = string(data)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for name, data := range want {
		if d, ok := got[name]; !ok {
			t.Errorf("%s is missing", name)
		} else if d != data {
			t.Errorf("%s is %q, want %q", name, d, data)
		}
	}
	for name := range got {
		if _, ok := want[name]; !ok {
			t.Errorf("%s is too much", name)
		}
	}
}
