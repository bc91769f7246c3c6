package daemon

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"banger/personas/api"
)

func TestImportImage(t *testing.T) {
	l := newLab(t)
	first := l.importImage(t, "", "debian") // named after its source
	if first.Name != "debian" || first.Distro == "" || first.HasInit || first.Default {
		t.Errorf("got %+v", first)
	}
	if info, err := os.Stat(first.Path); err != nil || info.Mode().Perm() != 0o444 || info.Size() != first.SizeBytes {
		t.Errorf("file is %v, %v", info, err)
	}
	again := l.importImage(t, "debian", "debian")
	if again.CreatedAt != first.CreatedAt || again.Digest != first.Digest {
		t.Errorf("the same content again is %+v, was %+v", again, first)
	}
	_, err := l.client.ImportImage(t.Context(), api.ImportRequest{Name: "debian", Source: "x"}, file(t, rootfs(t, "other")), nil)
	wantCode(t, err, api.CodeConflict)
	l.importImage(t, "other", "other")
	_, err = l.client.CreateVM(t.Context(), api.VMSpec{}, nil)
	wantCode(t, err, api.CodeUsage) // which of the two?
	img, err := l.client.ImportImage(t.Context(), api.ImportRequest{Name: "other", Source: "x", Default: true}, file(t, rootfs(t, "other")), nil)
	if err != nil || !img.Default {
		t.Errorf("made the default: %+v, %v", img, err)
	}
	l.vm(t, api.VMSpec{Name: "web"})
	wantCode(t, l.client.DeleteImage(t.Context(), "other"), api.CodeConflict)
	must(t, l.client.DeleteVM(t.Context(), "web", false, nil))
	must(t, l.client.DeleteImage(t.Context(), "other"))
	images, err := l.client.Images(t.Context())
	if err != nil || len(images) != 1 || images[0].Name != "debian" {
		t.Errorf("images are %+v, %v", images, err)
	}
	l.wantNoLeftovers(t)
}

// An image comes over a pipe too, in its own time.
func TestImportFromPipe(t *testing.T) {
	l := newLab(t)
	r, w, err := os.Pipe()
	must(t, err)
	defer r.Close()
	go func() {
		defer w.Close()
		data := rootfs(t, "piped")
		for len(data) > 0 {
			n := min(700, len(data))
			w.Write(data[:n])
			data = data[n:]
			time.Sleep(5 * time.Millisecond)
		}
	}()
	img, err := l.client.ImportImage(t.Context(), api.ImportRequest{Source: "-"}, r, nil)
	if err != nil || img.Name != "imported" {
		t.Errorf("got %+v, %v", img, err)
	}
}

// Abuse 61: an image is sealed when it is imported, and what has changed since is
// no image to make a VM from.
func TestTamperedImage(t *testing.T) {
	l := newLab(t)
	l.vm(t, api.VMSpec{Name: "web"})
	img, err := l.client.Image(t.Context(), "debian")
	must(t, err)
	must(t, os.Chmod(img.Path, 0o644)) // alone that is nothing
	l.vm(t, api.VMSpec{Name: "db"})
	f, err := os.OpenFile(img.Path, os.O_WRONLY, 0)
	must(t, err)
	_, err = f.WriteAt([]byte("x"), img.SizeBytes-1)
	must(t, err)
	must(t, f.Close())
	_, err = l.client.CreateVM(t.Context(), api.VMSpec{Name: "new", DiskBytes: 128 << 20}, nil)
	wantCode(t, err, api.CodeConflict)
	if vms, err := l.client.VMs(t.Context()); err != nil || len(vms) != 2 {
		t.Errorf("VMs are %+v, %v", vms, err)
	}
}

// Whatever an error says of a descriptor, the user is told the file's name.
func TestErrorsNameFiles(t *testing.T) {
	dir := t.TempDir()
	d, err := os.Open(dir)
	must(t, err)
	defer d.Close()
	r, w, err := os.Pipe()
	must(t, err)
	w.Close()
	defer r.Close()
	copied, err := unix.Dup(int(r.Fd()))
	must(t, err)
	pipe := os.NewFile(uintptr(copied), "standard input")
	defer pipe.Close()
	_, cause := os.Open(procName(d) + "/none")
	err = nameFiles(fmt.Errorf("%w, %s, %s1", cause, procName(pipe), procName(d)), []*os.File{d, pipe})
	want := fmt.Sprintf("open %s/none: no such file or directory, standard input, %s1", dir, procName(d))
	if err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
	if err := nameFiles(nil, nil); err != nil {
		t.Errorf("success became %v", err)
	}
}

func TestBadImportsLeaveNothing(t *testing.T) {
	l := newLab(t)
	empty := t.TempDir()
	dir, err := os.Open(empty)
	must(t, err)
	defer dir.Close()
	tar := rootfs(t, "cut")
	for name, src := range map[string]*os.File{
		"empty": file(t, nil), "text": file(t, []byte("hello")), "cut": file(t, tar[:700]), "folder": dir,
	} {
		if _, err := l.client.ImportImage(t.Context(), api.ImportRequest{Name: "bad", Source: name}, src, nil); err == nil {
			t.Errorf("image %s was imported", name)
		} else {
			wantCode(t, err, api.CodeBadInput)
		}
		_, err := l.client.ImportKernel(t.Context(), api.ImportRequest{Name: "bad", Source: name}, src, nil, nil)
		wantCode(t, err, api.CodeBadInput)
		l.wantNoLeftovers(t)
	}
	if len(l.images.List())+len(l.kernels.List()) > 0 {
		t.Errorf("listed are %v, %v", l.images.List(), l.kernels.List())
	}
}

func TestImportKernel(t *testing.T) {
	l := newLab(t)
	const version = "6.1.0-test (test@test) #1"
	first, err := l.importKernel(t, "linux", version)
	must(t, err)
	if first.Release != "6.1.0-test" || first.Source != "vmlinuz" {
		t.Errorf("got %+v", first)
	}
	again, err := l.importKernel(t, "linux", version)
	if err != nil || again.CreatedAt != first.CreatedAt {
		t.Errorf("the same kernel again is %+v, %v", again, err)
	}
	_, err = l.importKernel(t, "linux", "6.2.0-test (test@test) #1")
	wantCode(t, err, api.CodeConflict)
	l.vm(t, api.VMSpec{Name: "web"})
	wantCode(t, l.client.DeleteKernel(t.Context(), "linux"), api.CodeConflict)
	must(t, l.client.DeleteVM(t.Context(), "web", false, nil))
	must(t, l.client.DeleteKernel(t.Context(), "linux"))
	l.wantNoLeftovers(t)
}

// Descriptors are counted, and a client that sends none is not waited for.
func TestImportWithWrongDescriptors(t *testing.T) {
	l := newLab(t)
	f := file(t, rootfs(t, "a"))
	before := fds(t)
	for _, n := range []int{0, 2, 4, 8} {
		files := make([]*os.File, n)
		for i := range files {
			files[i] = f
		}
		conn := l.upgrade(t, "/v1/images", `{"name":"a","source":"a"}`)
		must(t, api.SendFiles(conn, files...))
		var ev api.Event
		must(t, json.NewDecoder(conn).Decode(&ev))
		if ev.Error == nil || ev.Error.Code != api.CodeUsage {
			t.Errorf("%d descriptors: got %+v", n, ev)
		}
		conn.Close()
	}
	eventually(t, "all descriptors to be closed", func() bool { return fds(t) <= before })
	l.wantNoLeftovers(t)
}

// A client that goes away in the midst of an import leaves nothing, even if
// whoever fills its pipe never ends.
func TestClientLeavesImport(t *testing.T) {
	l := newLab(t)
	before := fds(t)
	for _, silent := range []bool{true, false} {
		r, w, err := os.Pipe()
		must(t, err)
		if !silent {
			_, err = w.Write(rootfs(t, "half")[:1000])
			must(t, err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() {
			_, err := l.client.ImportImage(ctx, api.ImportRequest{Source: "-"}, r, nil)
			done <- err
		}()
		eventually(t, "the import", func() bool {
			entries, _ := os.ReadDir(l.store.TempDir())
			return len(entries) > 0
		})
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
		eventually(t, "an empty folder", func() bool {
			entries, _ := os.ReadDir(l.store.TempDir())
			return len(entries) == 0
		})
		r.Close()
		w.Close()
	}
	eventually(t, "all descriptors to be closed", func() bool { return fds(t) <= before })
}

func TestNameOf(t *testing.T) {
	for source, want := range map[string]string{
		"debian.tar.gz": "debian", "/a/b/Debian_12.tar.xz": "debian-12", "-": "imported", "": "imported", "///": "imported",
		"linux-image-6.1.0_amd64.deb": "linux-image-6-1-0-amd64", "\x1b[2J": "2j", "é": "imported",
		filepath.Join("x", "012345678901234567890123456789012345678-9.tar"): "012345678901234567890123456789012345678",
	} {
		if got := nameOf(source); got != want || api.CheckName(got) != nil {
			t.Errorf("%q is named %q, want %q", source, got, want)
		}
	}
}

func fds(t testing.TB) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	must(t, err)
	return len(entries)
}
