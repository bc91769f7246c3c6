package helper

import (
	"errors"
	"net/netip"
	"os"
	"os/user"
	"path/filepath"
	"strings"
	"testing"

	"banger/install/layout"
	"banger/ops"
)

// A VM starts in the Firecracker that was recorded, and in no other that has its place.
func TestProgramThatWasNotInstalled(t *testing.T) {
	path := filepath.Join(t.TempDir(), "firecracker")
	must(t, os.WriteFile(path, []byte("program"), 0o755))
	m := &machines{firecracker: path, programs: &programs{recorded: []layout.Program{{Path: path, SHA256: digestOf("program")}, {}}}}
	for range 2 {
		_, err := m.vmm(ops.Firecracker, "web")
		must(t, err)
	}
	must(t, os.WriteFile(path, []byte("another program"), 0o755))
	_, err := m.vmm(ops.Firecracker, "web")
	wantCode(t, err, ops.Unsupported)
	if refused := (*ops.Error)(nil); !errors.As(err, &refused) || refused.HintText == "" {
		t.Errorf("no hint: %v", err)
	}
	must(t, os.WriteFile(path, []byte("program"), 0o755))
	_, err = m.vmm(ops.Firecracker, "web")
	must(t, err)
	jailer := filepath.Join(t.TempDir(), "jailer")
	must(t, os.WriteFile(jailer, []byte("none"), 0o755))
	m.programs.recorded[1] = layout.Program{Path: jailer, SHA256: digestOf("jailer")}
	_, err = m.vmm(ops.Firecracker, "web")
	wantCode(t, err, ops.Unsupported)
}

// What others could exchange serves nobody, and the reason names what they could change.
func TestBinaryThatOthersCanExchange(t *testing.T) {
	needRoot(t)
	dir := filepath.Join("/run", "bin")
	path := filepath.Join(dir, "banger")
	must(t, os.Mkdir(dir, 0o755))
	t.Cleanup(func() { os.RemoveAll(dir) })
	must(t, os.WriteFile(path, nil, 0o755))
	must(t, checkBinary(path))
	must(t, os.Chmod(dir, 0o777))
	if err := checkBinary(path); !errors.Is(err, layout.ErrForeign) || !strings.Contains(err.Error(), dir+" ") {
		t.Errorf("got %v", err)
	}
}

// Who has got the uid of the owner later is not the owner.
func TestOwnerWhoIsNoMore(t *testing.T) {
	users := map[string]string{"alice": "1000", "carol": "1002"}
	lookup := func(name string) (*user.User, error) {
		if uid, ok := users[name]; ok {
			return &user.User{Username: name, Uid: uid}, nil
		}
		return nil, user.UnknownUserError(name)
	}
	must(t, checkOwner("alice", owner{1000, 1000}, lookup))
	for name, want := range map[string]string{"bob": "no such user", "carol": "uid 1002"} {
		err := checkOwner(name, owner{1000, 1000}, lookup)
		if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "system uninstall") {
			t.Errorf("%s: got %v, want %q", name, err, want)
		}
	}
}

// An upgrade exchanges program and record under a helper that runs.
func TestProgramOfAnUpgrade(t *testing.T) {
	needRoot(t) // the record is root's
	dir := t.TempDir()
	path, record := filepath.Join(dir, "firecracker"), filepath.Join(dir, "install.toml")
	install := func(content string) {
		r := layout.Record{
			Layout: layout.Version, Prefix: "/usr/local", Owner: layout.Owner{Name: "alice", UID: 1000, GID: 1000, Home: "/home/alice"},
			UIDs: layout.UIDs{First: 5000, Count: 100}, Network: netip.MustParsePrefix("10.99.0.0/16"),
			Firecracker: layout.Program{Path: path, SHA256: digestOf(content)},
		}
		text, err := r.Encode()
		must(t, err)
		must(t, os.WriteFile(path, []byte(content), 0o755))
		must(t, os.WriteFile(record, text, 0o600))
	}
	install("program")
	c, err := installed(record)
	must(t, err)
	must(t, c.programs.check())
	install("next program")
	must(t, c.programs.check())
	must(t, os.WriteFile(path, []byte("program"), 0o755))
	wantCode(t, c.programs.check(), ops.Unsupported)
}
