package vm

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"banger/personas/api"
)

// fillable is a folder on a file system of its own, which fill leaves no room in.
func fillable(t *testing.T) (dir string, fill, drain func()) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root to mount a small file system")
	}
	dir = t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, ""); err != nil {
		t.Skipf("needs to mount a tmpfs: %v", err)
	}
	t.Cleanup(func() { unix.Unmount(dir, unix.MNT_DETACH) })
	fill = func() {
		must(t, unix.Mount("", dir, "", unix.MS_REMOUNT, "size=1m"))
		err := os.WriteFile(filepath.Join(dir, "filler"), make([]byte, 1<<20), 0o600)
		if !errors.Is(err, unix.ENOSPC) {
			t.Fatalf("fill %s: %v", dir, err)
		}
	}
	return dir, fill, func() { must(t, os.Remove(filepath.Join(dir, "filler"))) }
}

// A full disk of the host keeps no VM from its end, and nobody is told that a VM runs
// which does not.
func TestEndOnFullDisk(t *testing.T) {
	dir, fill, drain := fillable(t)
	l := newLabIn(t, filepath.Join(dir, "store"))
	l.create(t, l.spec("web"))
	for what, end := range map[string]func() error{
		"stop":     func() error { _, err := l.Stop(t.Context(), "web", 0, ignore); return err },
		"kill":     func() error { _, err := l.Kill(t.Context(), "web"); return err },
		"poweroff": func() error { l.h.crash(); return nil },
	} {
		fill()
		must(t, end())
		eventually(t, "the end after "+what, func() bool { v, _ := l.Show("web"); return v.State == api.Stopped })
		if v, err := l.Show("web"); err != nil || v.PID != 0 || !l.h.idle() {
			t.Errorf("%s: VM has pid %d, its VMM is gone: %t, %v", what, v.PID, l.h.idle(), err)
		}
		if _, err := l.Start(t.Context(), "web", ignore); !errors.Is(err, unix.ENOSPC) {
			t.Errorf("%s, and then start says %v", what, err)
		}
		drain()
		_, err := l.Start(t.Context(), "web", ignore)
		must(t, err)
		l.wantState(t, "web", api.Running)
	}
	// The next daemon knows by the helper what could not be written.
	fill()
	_, err := l.Kill(t.Context(), "web")
	must(t, err)
	l.restart(t)
	drain()
	must(t, l.Reconcile(t.Context()))
	l.wantState(t, "web", api.Stopped)
}

// What is recorded as running and has no machine does not start, and is told so.
func TestRunningWithoutMachine(t *testing.T) {
	l := newLab(t)
	l.create(t, l.spec("web"))
	v, err := l.find("web")
	must(t, err)
	l.h.refuseAt("VMStop")
	l.h.crash()
	eventually(t, "the loss of the machine", func() bool {
		v.mu.Lock()
		defer v.mu.Unlock()
		return v.machine == nil
	})
	_, err = l.Start(t.Context(), "web", ignore)
	wantCode(t, err, api.CodeConflict)
	if want := "VM web is recorded as running, but not connected"; err == nil || err.Error() != want {
		t.Errorf("start says %v, want %q", err, want)
	}
	_, err = l.Restart(t.Context(), "web", 0, ignore)
	must(t, err)
	l.wantState(t, "web", api.Running)
}
