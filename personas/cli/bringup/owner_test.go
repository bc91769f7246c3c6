package bringup

import (
	"errors"
	"os"
	"os/user"
	"strings"
	"testing"
)

func TestStateDirectory(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root gives directories away")
	}
	for name, c := range map[string]struct {
		make func(dir string) error
		ok   bool
	}{
		"is made":                         {func(string) error { return nil }, true},
		"of root's and empty":             {func(dir string) error { return os.Mkdir(dir, 0o711) }, true},
		"of root's, with something":       {func(dir string) error { return os.MkdirAll(dir+"/vms", 0o711) }, false},
		"of root's, others may write":     {func(dir string) error { return errors.Join(os.Mkdir(dir, 0o711), os.Chmod(dir, 0o777)) }, false},
		"of another owner":                {func(dir string) error { return errors.Join(os.Mkdir(dir, 0o711), os.Lchown(dir, 1000, 1000)) }, false},
		"of its owner, with something":    {func(dir string) error { return errors.Join(os.MkdirAll(dir+"/vms", 0o711), os.Lchown(dir, testUID, 0)) }, true},
		"a link to a directory of root's": {func(dir string) error { return os.Symlink("/", dir) }, false},
	} {
		dir := t.TempDir() + "/state"
		if err := c.make(dir); err != nil {
			t.Fatal(err)
		}
		err := Owner{UID: testUID, GID: testGID, StateDir: dir, system: true}.makeState()
		if (err == nil) != c.ok || err != nil && !strings.Contains(err.Error(), "move it away") {
			t.Errorf("%s: %v", name, err)
		}
		if c.ok && checkDir(dir, testUID) != nil {
			t.Errorf("%s: %v", name, checkDir(dir, testUID))
		}
	}
}

func TestOwnerFrom(t *testing.T) {
	lookup := func(uid string) (*user.User, error) {
		if uid == "7" {
			return &user.User{Uid: uid, Gid: "8", HomeDir: "relative"}, nil
		}
		if uid != "1000" {
			return nil, user.UnknownUserIdError(5)
		}
		return &user.User{Uid: uid, Gid: "1001", HomeDir: "/home/anna"}, nil
	}
	anna := Owner{UID: 1000, GID: 1001, Home: "/home/anna", StateDir: "/home/anna/.local/share/banger"}
	other := anna
	other.GID = 1005
	for _, c := range []struct {
		uid, gid string
		want     Owner
		ok       bool
	}{
		{"1000", "", anna, true},
		{"1000", "1005", other, true},
		{"", "", plainRoot(), true},
		{"0", "0", plainRoot(), true}, // sudo within sudo
		{"", "1005", plainRoot(), true},
		{"1000", "0", Owner{}, false},
		{"1000", "x", Owner{}, false},
		{"5", "", Owner{}, false},
		{"7", "", Owner{}, false},
		{"-1", "", Owner{}, false},
		{"4294967295", "", Owner{}, false},
		{"4294967296", "", Owner{}, false},
	} {
		got, err := ownerFrom(func(k string) string { return map[string]string{"SUDO_UID": c.uid, "SUDO_GID": c.gid}[k] }, lookup)
		if (err == nil) != c.ok || c.ok && got != c.want {
			t.Errorf("SUDO_UID=%q SUDO_GID=%q: %+v, %v", c.uid, c.gid, got, err)
		}
		if c.ok && (got.UID == 0 || got.GID == 0) {
			t.Errorf("SUDO_UID=%q SUDO_GID=%q: owner is root", c.uid, c.gid)
		}
	}
}

// TestOwnerOfWhatWasLeft: who calls after both daemons were killed does not become the
// owner of VMs that go on, which his daemons would end.
func TestOwnerOfWhatWasLeft(t *testing.T) {
	dir := t.TempDir()
	caller := Owner{UID: 4711, GID: 4711, Home: "/home/bob"}
	h := Host{DaemonDir: dir + "/banger", HelperDir: dir + "/banger-helper", Owner: func() (Owner, error) { return caller, nil }}
	for _, path := range []string{h.DaemonDir, h.HelperDir + "/jails"} {
		if err := os.MkdirAll(path, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chown(h.DaemonDir, plainRootID, plainRootID); err != nil {
		t.Skipf("needs the right to give files away: %v", err)
	}
	if o, err := h.owner(false, false); err != nil || o != caller {
		t.Errorf("without VMs: %+v, %v", o, err)
	}
	if err := os.Mkdir(h.HelperDir+"/jails/web", 0o755); err != nil {
		t.Fatal(err)
	}
	if o, err := h.owner(false, false); err != nil || o != plainRoot() {
		t.Errorf("with a VM: %+v, %v", o, err)
	}
	if err := os.Remove(h.DaemonDir); err != nil {
		t.Fatal(err)
	}
	if o, err := h.owner(false, false); err != nil || o != caller {
		t.Errorf("with what nobody has left: %+v, %v", o, err)
	}
}
