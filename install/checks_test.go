package install

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"banger/install/doctor"
	"banger/install/layout"
)

// installedSite installs below a directory and returns what is looked at.
func installedSite(t *testing.T) site {
	t.Helper()
	root := t.TempDir()
	scripts = t.TempDir()
	o := options(root)
	o.Firecracker = script("Firecracker v1.15.1")
	if err := Install(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	r, err := layout.Decode(read(t, root+layout.Metadata))
	if err != nil {
		t.Fatal(err)
	}
	return site{record: &r, root: root}
}

// Each check is content with what was installed, and not with what was spoilt.
func TestChecks(t *testing.T) {
	for name, c := range map[string]struct {
		check func(site) doctor.Result
		spoil func(root string) error
		want  doctor.Status
		says  string
	}{
		"version": {
			func(s site) doctor.Result { return s.version("v1") }, nil, doctor.OK, "v1",
		},
		"another version": {
			func(s site) doctor.Result { return s.version("v2") }, nil, doctor.Warn, "v1 is installed",
		},
		"files": {
			func(s site) doctor.Result { return s.files(t.Context()) },
			func(root string) error {
				return os.WriteFile(root+"/etc/systemd/system/bangerd.service", []byte("[Service]"), 0o644)
			},
			doctor.Fail, "bangerd.service was changed",
		},
		"missing file": {
			func(s site) doctor.Result { return s.files(t.Context()) },
			func(root string) error { return os.Remove(root + "/etc/udev/rules.d/05-banger.rules") },
			doctor.Fail, "05-banger.rules is missing",
		},
		"drop-in": {
			func(s site) doctor.Result { return s.overrides(t.Context()) },
			func(root string) error {
				path := filepath.Join(root, "etc/systemd/system/bangerd.service.d/soft.conf")
				if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
					return err
				}
				return os.WriteFile(path, nil, 0o644)
			},
			doctor.Warn, "soft.conf",
		},
		"Firecracker": {
			func(s site) doctor.Result { return s.firecracker(t.Context()) },
			func(root string) error { return os.WriteFile(root+firecrackerPath, []byte("evil"), 0o755) },
			doctor.Fail, "not what was installed",
		},
		"sockets": {
			func(s site) doctor.Result { return s.sockets(t.Context()) }, nil, doctor.Fail, "bangerd.sock",
		},
	} {
		s := installedSite(t)
		if c.spoil != nil {
			if got := c.check(s); got.Status != doctor.OK {
				t.Errorf("%s: before: %+v", name, got)
			}
			if err := c.spoil(s.root); err != nil {
				t.Fatal(err)
			}
		}
		got := c.check(s)
		if got.Status != c.want || !strings.Contains(got.Detail, c.says) {
			t.Errorf("%s: %+v, want %s with %q", name, got, c.want, c.says)
		}
		if got.Status != doctor.OK && got.Hint == "" {
			t.Errorf("%s: does not say what to do", name)
		}
	}
}
