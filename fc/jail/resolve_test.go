package jail

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestResolve(t *testing.T) {
	dir := t.TempDir()
	binary := filepath.Join(dir, "firecracker-v1")
	if err := os.WriteFile(binary, []byte("#!"), 0o755); err != nil {
		t.Fatal(err)
	}
	os.Symlink("firecracker-v1", filepath.Join(dir, "firecracker"))
	os.WriteFile(filepath.Join(dir, "plain"), nil, 0o644)
	for _, test := range []struct{ name, path, configured, want, err, hint string }{
		{"configured", "", binary, binary, "", ""},
		{"configured wins", dir, "/bin/sh", must(filepath.EvalSymlinks("/bin/sh")), "", ""},
		{"PATH, through links", dir, "", binary, "", ""},
		{"nothing", "/no", "", "", "find firecracker in PATH: file does not exist", "root's PATH"},
		{"configured and missing", dir, "/no/fc", "", `use firecracker at "/no/fc": no such file or directory`, "system install --firecracker"},
		{"relative", dir, "bin/fc", "", "not an absolute path", "system install"},
		{"directory", dir, dir, "", "not a regular file", "system install"},
		{"not executable", dir, filepath.Join(dir, "plain"), "", "not executable", "system install"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Setenv("PATH", test.path)
			got, err := Resolve("firecracker", test.configured)
			if got != test.want || !strings.Contains(fmt.Sprint(err), test.err) || (err == nil) != (test.err == "") {
				t.Fatalf("%q, %v", got, err)
			}
			var missing *MissingError
			if err != nil && (!errors.As(err, &missing) || !strings.Contains(missing.Hint(), test.hint)) {
				t.Errorf("error %#v has no hint", err)
			}
		})
	}
	t.Setenv("PATH", "/no")
	if _, err := Resolve("firecracker", ""); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("missing binary: %v", err)
	}
}

func must(s string, err error) string {
	if err != nil {
		panic(err)
	}
	return s
}
