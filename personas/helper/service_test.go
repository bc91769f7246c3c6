package helper

import (
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"banger/install/layout"
)

// An installed helper starts no Firecracker but the one that the installer has looked
// at, whatever PATH has.
func TestInstalledFirecracker(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: the record is root's")
	}
	for _, recorded := range []string{"", layout.Firecracker} {
		r := layout.Record{
			Layout: layout.Version, Prefix: "/usr/local", Owner: layout.Owner{Name: "alice", UID: 1000, GID: 1000, Home: "/home/alice"},
			UIDs: layout.UIDs{First: 5000, Count: 100}, Network: netip.MustParsePrefix("10.99.0.0/16"),
			Firecracker: layout.Program{Path: recorded},
		}
		text, err := r.Encode()
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(t.TempDir(), "install.toml")
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
		c, err := installed(path)
		if err != nil || c.firecracker != layout.Firecracker {
			t.Errorf("recorded %q: %q, %v", recorded, c.firecracker, err)
		}
	}
}
