package vm

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"banger/ops"
	"banger/personas/api"
	"banger/store"
)

// lab is a Set over a host, which can be closed and opened again.
type lab struct {
	*Set
	h     *host
	store *store.Store
	image Image
	claim time.Duration
}

func newLab(t testing.TB) *lab { return newLabIn(t, filepath.Join(t.TempDir(), "store")) }

func newLabIn(t testing.TB, dir string) *lab {
	t.Helper()
	h, socket := newHost(t)
	s, err := store.Open(dir)
	must(t, err)
	l := &lab{h: h, store: s, claim: time.Minute}
	l.image = Image{Name: "image", Digest: "sha256:00", Path: filepath.Join(h.dir, "image.ext4"), Bytes: 64 << 10}
	must(t, os.WriteFile(l.image.Path, make([]byte, l.image.Bytes), 0o444))
	l.image.Seal = sealFile(t, l.image.Path)
	for _, name := range []string{"kernel", "initrd"} {
		must(t, os.WriteFile(filepath.Join(h.dir, name), []byte(name), 0o444))
	}
	l.load(t, socket)
	t.Cleanup(func() {
		l.Close()
		s.Close()
	})
	return l
}

func (l *lab) load(t testing.TB, socket string) {
	t.Helper()
	l.Set = &Set{
		Helper: ops.NewClient(socket), Log: slog.New(slog.DiscardHandler), ClaimTime: l.claim,
		Records: store.Kind[Record](l.store, "vms"),
		BootFiles: func(context.Context, Kernel, api.VMM) (Boot, error) {
			return Boot{
				Kernel: filepath.Join(l.h.dir, "kernel"), KernelSHA256: strings.Repeat("0", 64),
				Initrd: filepath.Join(l.h.dir, "initrd"), InitrdSHA256: strings.Repeat("1", 64),
			}, l.h.step("BootFiles")
		},
	}
	_, err := l.Load(t.Context())
	must(t, err)
}

// restart ends the daemon and starts another one. It does not reconcile yet.
func (l *lab) restart(t testing.TB) {
	t.Helper()
	l.Close()
	l.load(t, filepath.Join(l.h.dir, "helper.sock"))
}

// spec is a VM that starts.
func (l *lab) spec(name string) Record {
	return Record{
		Spec:  api.VMSpec{Name: name, CPUs: 1, MemMiB: 128, DiskBytes: l.image.Bytes, Net: api.NetInternet, Start: true},
		Image: l.image, Kernel: Kernel{Name: "kernel", Digest: "sha256:11"}, VMM: api.VMMQEMU, Backend: api.BackendCopy,
	}
}

func (l *lab) create(t testing.TB, rec Record) api.VM {
	t.Helper()
	v, err := l.Create(t.Context(), rec, ignore)
	must(t, err)
	return v
}

func ignore(api.Event) {}

func sealFile(t testing.TB, path string) store.Seal {
	t.Helper()
	f, err := os.Open(path)
	must(t, err)
	defer f.Close()
	seal, err := store.SealFile(t.Context(), f)
	must(t, err)
	return seal
}

// wantState fails unless memory, disk and helper agree on the state of a VM.
func (l *lab) wantState(t testing.TB, name string, want api.State) {
	t.Helper()
	v, err := l.Show(name)
	must(t, err)
	recs, _, err := l.Records.Load()
	must(t, err)
	rec := recs[v.ID]
	l.h.mu.Lock()
	defer l.h.mu.Unlock()
	g := l.h.leases[rec.Lease.Handle]
	runs := g != nil && g.alive()
	if v.State != want || rec.State != want || runs != (want == api.Running) {
		t.Errorf("VM %s is %s, recorded as %s (%s), runs: %t; want %s", name, v.State, rec.State, rec.Reason, runs, want)
	}
	if (v.PID != 0) != (want == api.Running) {
		t.Errorf("VM %s has pid %d", name, v.PID)
	}
}

// wantNothing fails where anything of any VM is left.
func (l *lab) wantNothing(t testing.TB) {
	t.Helper()
	if vms := l.List(); len(vms) > 0 {
		t.Errorf("VMs are left: %+v", vms)
	}
	l.awaitClearing()
	for _, dir := range []string{"vms", "tmp"} {
		entries, err := os.ReadDir(filepath.Join(l.store.Dir, dir))
		must(t, err)
		if len(entries) > 0 {
			t.Errorf("files are left in %s: %v", dir, entries)
		}
	}
	l.h.mu.Lock()
	defer l.h.mu.Unlock()
	if len(l.h.leases) > 0 {
		t.Errorf("%d leases are left", len(l.h.leases))
	}
}

// eventually waits for what another goroutine does.
func eventually(t testing.TB, what string, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !is(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("waited in vain for ", what)
		}
	}
}

func (l *lab) gone(name string) func() bool {
	return func() bool {
		return !slices.ContainsFunc(l.List(), func(v api.VM) bool { return v.Name == name })
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func wantCode(t testing.TB, err error, code api.Code) {
	t.Helper()
	var e *api.Error
	if !errors.As(err, &e) || e.Code != code {
		t.Errorf("got %v, want an error as %s", err, code)
	}
}
