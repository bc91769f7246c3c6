package layout

import (
	"errors"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func record() Record {
	return Record{
		Layout: 1, InstalledAt: time.Unix(1700000000, 0).UTC(), Version: "v1", Prefix: "/usr/local",
		Owner: Owner{Name: "alice", UID: 1000, GID: 1000, Home: "/home/alice"},
		UIDs:  UIDs{First: 1 << 20, Count: 4096}, Network: netip.MustParsePrefix("10.1.0.0/16"),
		Firecracker: Program{Path: "/x/firecracker", SHA256: "00", Version: "1.15.1"},
	}
}

func TestRoundTrip(t *testing.T) {
	r := record()
	text, err := r.Encode()
	if err != nil {
		t.Fatal(err)
	}
	got, err := Decode(text)
	if err != nil || got != r {
		t.Errorf("%v\ngot  %+v\nwant %+v", err, got, r)
	}
}

func TestDecodeRefuses(t *testing.T) {
	r := record()
	good, err := r.Encode()
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"empty":           "",
		"no TOML":         "{}",
		"unknown key":     string(good) + "\nevil = 1\n",
		"newer layout":    strings.Replace(string(good), "layout = 1", "layout = 3", 1),
		"no layout":       strings.Replace(string(good), "layout = 1", "layout = 0", 1),
		"owner root":      strings.Replace(string(good), "uid = 1000", "uid = 0", 1),
		"relative home":   strings.Replace(string(good), "/home/alice", "home", 1),
		"relative prefix": strings.Replace(string(good), "/usr/local", "usr", 1),
		"specifier":       strings.Replace(string(good), "/usr/local", "/usr/%i", 1),
		"no network":      strings.Replace(string(good), "10.1.0.0/16", "", 1),
		"relative VMM":    strings.Replace(string(good), "/x/firecracker", "firecracker", 1),
		"too long":        string(good) + strings.Repeat("#", maxRecord),
	} {
		if _, err := Decode([]byte(text)); err == nil {
			t.Errorf("%s: it was read", name)
		}
	}
}

func TestLoad(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "install.toml")
	if _, err := Load(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("missing: %v", err)
	}
	if os.Geteuid() != 0 {
		t.Skip("needs root to write root's files")
	}
	r := record()
	text, err := r.Encode()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, text, 0o644); err != nil {
		t.Fatal(err)
	}
	if got, err := Load(path); err != nil || got != r {
		t.Errorf("%v, %+v", err, got)
	}
	link := filepath.Join(dir, "link")
	if err := os.Symlink(path, link); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(link); err == nil {
		t.Error("a link was followed")
	}
	for name, spoil := range map[string]func() error{
		"writable by others": func() error { return os.Chmod(path, 0o666) },
		"somebody's":         func() error { return errors.Join(os.Chmod(path, 0o644), os.Chown(path, 1000, 1000)) },
		"a directory":        func() error { return errors.Join(os.Remove(path), os.Mkdir(path, 0o755)) },
	} {
		if err := spoil(); err != nil {
			t.Fatal(err)
		}
		if name == "somebody's" || name == "writable by others" {
			if _, err := Load(path); !errors.Is(err, ErrForeign) {
				t.Errorf("%s: %v", name, err)
			}
			if err := errors.Join(os.Chmod(path, 0o644), os.Chown(path, 0, 0)); err != nil {
				t.Fatal(err)
			}
		} else if _, err := Load(path); err == nil {
			t.Errorf("%s: it was read", name)
		}
	}
}

func FuzzDecode(f *testing.F) {
	r := record()
	text, err := r.Encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(text)
	f.Add([]byte("layout = 1\n[owner]\nuid = -1"))
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := Decode(data)
		if err != nil {
			return
		}
		again, err := r.Encode()
		if err != nil {
			t.Fatalf("what was read cannot be written: %v", err)
		}
		if _, err := Decode(again); err != nil {
			t.Fatalf("what was written cannot be read: %v\n%s", err, again)
		}
	})
}
