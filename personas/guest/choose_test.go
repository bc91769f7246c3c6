package guest

import (
	"os"
	"path/filepath"
	"testing"

	"banger/personas/guest/link"
)

func TestChooseInit(t *testing.T) {
	for name, test := range map[string]struct {
		files   map[string]string // "-> x" is a link
		mode    link.InitMode
		path    string
		systemd bool
		fails   bool
	}{
		"nothing":                 {nil, link.InitAuto, "", false, false},
		"nothing, but asked for":  {nil, link.InitImage, "", false, true},
		"debian":                  {map[string]string{"usr/lib/systemd/systemd": "x", "sbin/init": "-> /lib/systemd/systemd", "lib": "-> usr/lib"}, link.InitAuto, "/sbin/init", true, false},
		"systemd without a link":  {map[string]string{"usr/lib/systemd/systemd": "x"}, link.InitAuto, "/usr/lib/systemd/systemd", true, false},
		"ours over systemd":       {map[string]string{"usr/lib/systemd/systemd": "x"}, link.InitBanger, "", false, false},
		"sysvinit":                {map[string]string{"sbin/init": "x"}, "", "/sbin/init", false, false},
		"alpine container":        {map[string]string{"bin/busybox": "x", "sbin/init": "-> /bin/busybox"}, link.InitAuto, "", false, false},
		"alpine container, asked": {map[string]string{"bin/busybox": "x", "sbin/init": "-> /bin/busybox"}, link.InitImage, "/sbin/init", false, false},
		"alpine with openrc":      {map[string]string{"bin/busybox": "x", "sbin/init": "-> /bin/busybox", "sbin/openrc": "x"}, link.InitAuto, "/sbin/init", false, false},
		"link in a circle":        {map[string]string{"sbin/init": "-> init"}, link.InitAuto, "", false, false},
		"link out of the image":   {map[string]string{"sbin/init": "-> ../../../../../../bin/sh"}, link.InitAuto, "", false, false},
		"not executable":          {map[string]string{"sbin/init": ""}, link.InitAuto, "", false, false},
	} {
		t.Run(name, func(t *testing.T) {
			root := t.TempDir()
			for file, text := range test.files {
				path := filepath.Join(root, file)
				if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
					t.Fatal(err)
				}
				var err error
				switch {
				case len(text) > 3:
					err = os.Symlink(text[3:], path)
				case text == "x":
					err = os.WriteFile(path, nil, 0o755)
				default:
					err = os.WriteFile(path, nil, 0o644)
				}
				if err != nil {
					t.Fatal(err)
				}
			}
			got, err := chooseInit(root, test.mode)
			if got.path != test.path || got.systemd != test.systemd || (err != nil) != test.fails {
				t.Fatalf("got %+v, %v", got, err)
			}
		})
	}
}
