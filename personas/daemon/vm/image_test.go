package vm

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"banger/personas/api"
	"banger/store"
)

// Abuse 61: a VM that shares its image does not start on another one.
func TestChangedImageIsRefused(t *testing.T) {
	for name, change := range map[string]func(path string, info os.FileInfo) error{
		"a byte of it, at its old time": func(p string, i os.FileInfo) error {
			return errors.Join(overwrite(p, "x"), os.Chtimes(p, i.ModTime(), i.ModTime()))
		},
		"its size":   func(p string, i os.FileInfo) error { return os.Truncate(p, i.Size()-512) },
		"its file":   func(p string, i os.FileInfo) error { return replace(p, strings.Repeat("x", int(i.Size()))) },
		"to nothing": func(p string, _ os.FileInfo) error { return os.Remove(p) },
		"to a pipe": func(p string, _ os.FileInfo) error {
			return errors.Join(os.Remove(p), unix.Mkfifo(p, 0o644))
		},
		"to a folder": func(p string, _ os.FileInfo) error { return errors.Join(os.Remove(p), os.Mkdir(p, 0o755)) },
	} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t)
			shared, snapshot, own := l.spec("shared"), l.spec("snapshot"), l.spec("own")
			shared.Backend, shared.Spec.DiskBytes = api.BackendOverlay, 64<<20
			snapshot.Backend = api.BackendSnapshot
			for _, rec := range []Record{shared, snapshot, own} {
				l.create(t, rec)
				_, err := l.Stop(t.Context(), rec.Spec.Name, 0, ignore)
				must(t, err)
			}
			info, err := os.Stat(l.image.Path)
			must(t, err)
			time.Sleep(20 * time.Millisecond) // the kernel's times are as exact as its tick
			must(t, change(l.image.Path, info))
			begin := time.Now()
			for _, name := range []string{"shared", "snapshot"} {
				_, err = l.Start(t.Context(), name, ignore)
				if err == nil || !strings.Contains(err.Error(), l.image.Path) {
					t.Errorf("start %s: got %v", name, err)
				}
				l.wantState(t, name, api.Stopped)
			}
			if took := time.Since(begin); took > 5*time.Second {
				t.Errorf("it took %v", took)
			}
			// A copy has all of its own, and a reflink keeps the blocks that it
			// shared when somebody else's are written.
			_, err = l.Start(t.Context(), "own", ignore)
			must(t, err)
			// But nothing new is made from it.
			if _, err := l.Create(t.Context(), l.spec("new"), ignore); err == nil {
				t.Error("a VM was made from a changed image")
			}
		})
	}
}

// What is the same file in substance is taken: an image that was put back from a
// backup, or that was recorded before there were seals.
func TestImageThatIsTheSame(t *testing.T) {
	l := newLab(t)
	rec := l.spec("web")
	rec.Backend, rec.Spec.DiskBytes = api.BackendOverlay, 64<<20
	rec.Image.Seal = store.Seal{}
	l.create(t, rec)
	content, err := os.ReadFile(l.image.Path)
	must(t, err)
	must(t, replace(l.image.Path, string(content)))
	_, err = l.Restart(t.Context(), "web", 0, ignore)
	must(t, err)
	recs, _, err := l.Records.Load()
	must(t, err)
	for _, r := range recs {
		if r.Image.Seal != sealFile(t, l.image.Path) {
			t.Errorf("the seal in the record is %+v", r.Image.Seal)
		}
	}
}

// Abuse 3: whatever is exchanged for the image while a VM starts, the VM gets the
// file that was checked, or none.
func TestImageIsExchangedWhileStarting(t *testing.T) {
	l := newLab(t)
	rec := l.spec("web")
	rec.Backend, rec.Spec.DiskBytes, rec.Spec.Start = api.BackendOverlay, 64<<20, false
	l.create(t, rec)
	evil := filepath.Join(l.h.dir, "evil")
	must(t, os.WriteFile(evil, []byte(strings.Repeat("evil", int(l.image.Bytes)/4)), 0o444))
	var swaps atomic.Int64
	done := make(chan struct{})
	var swapper sync.WaitGroup
	swapper.Go(func() {
		for {
			select {
			case <-done:
				return
			default:
			}
			if err := unix.Renameat2(unix.AT_FDCWD, l.image.Path, unix.AT_FDCWD, evil, unix.RENAME_EXCHANGE); err != nil {
				t.Errorf("exchange: %v", err)
				return
			}
			swaps.Add(1)
			time.Sleep(50 * time.Microsecond) // long enough to be met in each state
		}
	})
	started, refused := 0, 0
	for swaps.Load() < 1000 || started < 10 || refused < 10 {
		_, err := l.Start(t.Context(), "web", ignore)
		var e *api.Error
		switch {
		case err == nil:
			started++
			l.h.set(func() {
				if len(l.h.disks) != 2 || strings.Contains(l.h.disks[0], "evil") {
					t.Errorf("the VM got disks that begin with %q", l.h.disks)
				}
			})
			_, err = l.Kill(t.Context(), "web")
			must(t, err)
		case errors.As(err, &e) && e.Code == api.CodeConflict && strings.Contains(err.Error(), "changed"):
			refused++
		default:
			t.Fatalf("start: %v", err)
		}
	}
	close(done)
	swapper.Wait()
	t.Logf("%d exchanges, %d starts, %d refused", swaps.Load(), started, refused)
}

// A record that was written before images were looked at more closely starts.
func TestImageConfigOfOldRecord(t *testing.T) {
	l := newLab(t)
	rec := l.spec("web")
	rec.Image.Env = []string{"UNSET", "A=1", "=B", "C=\x00"}
	rec.Image.WorkDir = "srv/app"
	rec.Spec.Env = []string{"D=2"}
	l.create(t, rec)
	l.h.mu.Lock()
	defer l.h.mu.Unlock()
	got := l.h.boots[0].Exec
	if strings.Join(got.Env, " ") != "A=1 D=2" || got.Dir != "/srv/app" {
		t.Errorf("the guest was told %+v", got)
	}
}

func overwrite(path, with string) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteAt([]byte(with), 4096)
	return errors.Join(err, f.Close())
}

func replace(path, content string) error {
	return errors.Join(os.WriteFile(path+".new", []byte(content), 0o444), os.Rename(path+".new", path))
}
