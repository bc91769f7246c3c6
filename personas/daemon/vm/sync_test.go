package vm

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"banger/personas/api"
	"banger/personas/daemon/filesync"
	"banger/personas/sshconfig"
)

// Files of the owner come once, at the first start, as they are then.
func TestSyncedFilesComeOnce(t *testing.T) {
	l := newLab(t)
	home := t.TempDir()
	l.Home = home
	must(t, os.WriteFile(filepath.Join(home, "a"), []byte("when created"), 0o600))
	rec := l.spec("web")
	rec.Spec.Start = false
	rec.Sync = []filesync.Entry{{Host: "a", Guest: "x/a", Mode: 0o640}, {Host: "none", Guest: "none", Mode: 0o600}}
	l.create(t, rec)
	l.restart(t) // it is in the record
	l.Home = home
	must(t, os.WriteFile(filepath.Join(home, "a"), []byte("when started"), 0o600))

	var notices []string
	_, err := l.Start(t.Context(), "web", func(ev api.Event) {
		if ev.Notice != "" {
			notices = append(notices, ev.Notice)
		}
	})
	must(t, err)
	if len(notices) != 1 || !strings.HasPrefix(notices[0], "file_sync[1]: ~/none is not there") {
		t.Errorf("notices: %q", notices)
	}
	files := l.h.boots[0].Files
	if len(files) != 1 || files[0].Path != "~/x/a" || files[0].Mode != 0o640 || string(files[0].Data) != "when started" {
		t.Errorf("the guest got %+v", files)
	}
	_, err = l.Restart(t.Context(), "web", 0, ignore)
	must(t, err)
	if got := l.h.boots[1].Files; len(got) > 0 {
		t.Errorf("they came again: %+v", got)
	}
}

// What is refused is refused before a VMM runs, and the VM can be started once it
// is mended.
func TestSyncedFilesAreRefusedBeforeTheStart(t *testing.T) {
	l := newLab(t)
	l.Home = t.TempDir()
	link := filepath.Join(l.Home, "a")
	must(t, os.Symlink("/etc/passwd", link))
	rec := l.spec("web")
	rec.Spec.Start = false
	rec.Sync = []filesync.Entry{{Host: "a", Guest: "a", Mode: 0o600}}
	l.create(t, rec)
	_, err := l.Start(t.Context(), "web", ignore)
	if err == nil || !strings.Contains(err.Error(), "file_sync[0]: ") {
		t.Errorf("started: %v", err)
	}
	l.wantState(t, "web", api.Stopped)
	if len(l.h.boots) > 0 {
		t.Error("a guest has booted")
	}
	must(t, os.Remove(link))
	must(t, os.WriteFile(link, []byte("mine"), 0o600))
	_, err = l.Start(t.Context(), "web", ignore)
	must(t, err)
	if files := l.h.boots[0].Files; len(files) != 1 {
		t.Errorf("the guest got %+v", files)
	}
}

// A VM admits the keys that it was created with and its owner's, which the daemon
// makes where it can.
func TestAuthorizedKeys(t *testing.T) {
	l := newLab(t)
	l.Home = t.TempDir()
	rec := l.spec("web")
	rec.Spec.AuthorizedKeys = []string{"ssh-ed25519 AAAA someone's"}
	l.create(t, rec)
	own, err := sshconfig.In(l.Home).PublicKey()
	must(t, err)
	want := []string{"ssh-ed25519 AAAA someone's", own}
	_, err = l.Restart(t.Context(), "web", 0, ignore)
	must(t, err)
	for _, boot := range l.h.boots {
		if !slices.Equal(boot.AuthorizedKeys, want) {
			t.Errorf("admits %q, want %q", boot.AuthorizedKeys, want)
		}
	}
	// A home that cannot be written to is no reason not to start.
	l.Home = "/proc/self"
	_, err = l.Restart(t.Context(), "web", 0, ignore)
	must(t, err)
	if got := l.h.boots[len(l.h.boots)-1].AuthorizedKeys; !slices.Equal(got, want[:1]) {
		t.Errorf("without a home: %q", got)
	}
}
