package install

import (
	"errors"
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
	o.Firecracker, o.Jailer = script("Firecracker v1.15.1"), script("Jailer v1.15.1")
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
			func(s site) doctor.Result { return s.version(options("").Build) }, nil, doctor.OK, "v1",
		},
		"another version": {
			func(s site) doctor.Result { return s.version(Build{Version: "v2", Built: "2026-03-01T00:00:00Z"}) }, nil, doctor.Warn, "v1 is installed",
		},
		"older": {
			func(s site) doctor.Result { return s.version(Build{Version: "v0", Built: "2026-01-01T00:00:00Z"}) }, nil, doctor.Warn, "older than v1",
		},
		"services": {
			func(s site) doctor.Result {
				return s.services(map[string]string{"bangerd": "v1", "banger-helper": "v1"}, nil)
			}, nil, doctor.OK, "both",
		},
		"service that was not restarted": {
			func(s site) doctor.Result {
				return s.services(map[string]string{"bangerd": "v1", "banger-helper": "v0"}, nil)
			}, nil, doctor.Fail, "banger-helper runs as v0",
		},
		"services that do not answer": {
			func(s site) doctor.Result { return s.services(nil, errors.New("permission denied")) }, nil, doctor.Info, "not asked",
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
			func(root string) error { return os.WriteFile(root+layout.Firecracker, []byte("evil"), 0o755) },
			doctor.Fail, "not what was installed",
		},
		"jailer": {
			func(s site) doctor.Result { return s.firecracker(t.Context()) },
			func(root string) error { return os.WriteFile(root+layout.Jailer, []byte("evil"), 0o755) },
			doctor.Fail, "jailer is not what was installed",
		},
		"another jailer": {
			func(s site) doctor.Result {
				s.record.Jailer.Version = "1.16.0"
				return s.firecracker(t.Context())
			}, nil, doctor.Fail, "is 1.15.1, and its jailer 1.16.0",
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
