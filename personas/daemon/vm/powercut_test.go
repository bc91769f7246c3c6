package vm

import (
	"bytes"
	"crypto/rand"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"banger/personas/api"
	"banger/store"
)

// TestPowerCut: what was acknowledged is there after a power cut at that moment, and
// of what was not nothing is.
func TestPowerCut(t *testing.T) {
	for _, kind := range []string{"ext4", "xfs"} {
		t.Run(kind, func(t *testing.T) { testPowerCut(t, kind) })
	}
}

func testPowerCut(t *testing.T, kind string) {
	dir, cut := cuttable(t, kind)
	l := newLabIn(t, filepath.Join(dir, "store"))
	content := make([]byte, l.image.Bytes)
	rand.Read(content)
	must(t, os.Chmod(l.image.Path, 0o600))
	must(t, os.WriteFile(l.image.Path, content, 0o600))
	l.image.Seal = sealFile(t, l.image.Path)
	// after is what the next daemon finds of the VM.
	after := func(id string) (rec Record, disk []byte) {
		t.Helper()
		s, err := store.Open(filepath.Join(cut(t), "store"))
		must(t, err)
		defer s.Close()
		records := store.Kind[Record](s, "vms")
		recs, damaged, err := records.Load()
		must(t, err)
		if len(damaged) > 0 {
			t.Errorf("damaged: %v", damaged)
		}
		disk, err = os.ReadFile(filepath.Join(records.Path(id), "disk.ext4"))
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Error(err)
		}
		return recs[id], disk
	}
	rec := l.spec("web")
	rec.Spec.Start = false
	v := l.create(t, rec)
	got, disk := after(v.ID)
	if got.State != api.Stopped || got.Name != "web" || !bytes.Equal(disk, content) {
		t.Errorf("created, and then it is %q, with a disk of %d bytes", got.State, len(disk))
	}
	_, err := l.Start(t.Context(), "web", ignore)
	must(t, err)
	if got, _ = after(v.ID); got.State != api.Running || got.StartedAt.IsZero() {
		t.Errorf("started, and then it is %q, started at %v", got.State, got.StartedAt)
	}
	first := got.StartedAt
	for _, act := range []func() error{
		func() error { _, err := l.Stop(t.Context(), "web", 0, ignore); return err },
		func() error { _, err := l.Start(t.Context(), "web", ignore); return err },
		func() error { _, err := l.Kill(t.Context(), "web"); return err },
	} {
		must(t, act())
		// It does not run any more, whatever was told: the rest must be right.
		if got, _ = after(v.ID); got.ID != v.ID || got.StartedAt.Before(first) {
			t.Errorf("then it is %+v", got)
		}
	}
	must(t, l.Delete(t.Context(), "web", true))
	if got, _ := after(v.ID); got.ID != "" {
		t.Errorf("deleted, and then it is %q", got.State)
	}

	other := l.create(t, l.spec("other")) // created and started in one
	if got, disk := after(other.ID); got.State != api.Running || got.StartedAt.IsZero() || !bytes.Equal(disk, content) {
		t.Errorf("created and started, and then it is %q, started at %v, with a disk of %d bytes", got.State, got.StartedAt, len(disk))
	}

	// In the midst of a creation.
	for _, at := range []string{"VMReserve", "BootFiles", "VMStart"} {
		var got map[string]Record
		l.h.set(func() {
			l.h.before = func(step string) error {
				if step != at || got != nil {
					return nil
				}
				s, err := store.Open(filepath.Join(cut(t), "store"))
				if err == nil {
					got, _, err = store.Kind[Record](s, "vms").Load()
					s.Close()
				}
				return err
			}
		})
		v := l.create(t, l.spec("third"))
		l.h.set(func() { l.h.before = nil })
		if got == nil {
			t.Errorf("%s: never reached", at)
		}
		// What is noted only is removed: see TestReconcileOfUnacknowledged.
		if rec, ok := got[v.ID]; ok && rec.State != api.Creating && rec.State != api.Starting {
			t.Errorf("%s: it is %q", at, rec.State)
		}
		must(t, l.Delete(t.Context(), "third", true))
	}
}

// cuttable mounts a file system of that kind. cut mounts what a power cut would leave of
// it now: what the kernel has not written to the device yet is not in there.
func cuttable(t *testing.T, kind string) (dir string, cut func(testing.TB) string) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root to mount a file system")
	}
	if _, err := exec.LookPath("mkfs." + kind); err != nil {
		t.Skipf("needs mkfs.%s", kind)
	}
	image := filepath.Join(t.TempDir(), "image")
	must(t, os.WriteFile(image, nil, 0o600))
	must(t, os.Truncate(image, 1<<30))
	run := func(t testing.TB, args ...string) error {
		out, err := exec.Command(args[0], args[1:]...).CombinedOutput()
		if err != nil {
			t.Logf("%v: %v\n%s", args, err, out)
		}
		return err
	}
	must(t, run(t, "mkfs."+kind, "-q", image))
	mount := func(t testing.TB, image, options string) string {
		dir, err := os.MkdirTemp("", "cut")
		must(t, err)
		if err := run(t, "mount", "-t", kind, "-o", "loop"+options, image, dir); err != nil {
			os.Remove(dir)
			t.Skip("needs to mount loop devices")
		}
		t.Cleanup(func() {
			if err := unix.Unmount(dir, 0); err != nil {
				t.Errorf("unmount %s: %v", dir, err)
			}
			os.Remove(dir)
		})
		return dir
	}
	copies := 0
	return mount(t, image, ""), func(t testing.TB) string {
		copies++
		to := filepath.Join(filepath.Dir(image), "copy")
		must(t, os.MkdirAll(to, 0o700))
		to = filepath.Join(to, string(rune('a'+copies)))
		must(t, run(t, "cp", "--sparse=always", image, to))
		if kind == "xfs" {
			return mount(t, to, ",nouuid")
		}
		return mount(t, to, "")
	}
}
