package kernel

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
)

func TestHost(t *testing.T) {
	const release = "6.1.0-test"
	for _, c := range []struct {
		name  string
		files []string
		want  Source
	}{
		{"Debian", []string{"boot/vmlinuz-" + release, "boot/config-" + release, "lib/modules/" + release + "/modules.dep"},
			Source{Path: "boot/vmlinuz-" + release, Modules: "lib/modules/" + release, Config: "boot/config-" + release}},
		{"Fedora", []string{"lib/modules/" + release + "/vmlinuz", "lib/modules/" + release + "/config"},
			Source{Path: "lib/modules/" + release + "/vmlinuz", Modules: "lib/modules/" + release, Config: "lib/modules/" + release + "/config"}},
		{"without modules", []string{"boot/vmlinux-" + release}, Source{Path: "boot/vmlinux-" + release}},
	} {
		t.Run(c.name, func(t *testing.T) {
			root := t.TempDir()
			for _, name := range c.files {
				p := filepath.Join(root, name)
				if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(p, nil, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			got, err := host(root, release)
			if err != nil {
				t.Fatal(err)
			}
			for _, p := range []*string{&c.want.Path, &c.want.Modules, &c.want.Config} {
				if *p != "" {
					*p = filepath.Join(root, *p)
				}
			}
			if got != c.want {
				t.Errorf("got %+v, want %+v", got, c.want)
			}
		})
	}
	if _, err := host(t.TempDir(), release); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("nothing there: got error %v", err)
	}
}
