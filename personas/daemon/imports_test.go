package daemon

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"banger/personas/api"
	"banger/store/kernel/kerneltest"
)

func TestImportImage(t *testing.T) {
	l := newLab(t)
	first := l.importImage(t, "debian", "debian")
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
	img, err := l.client.ImportImage(t.Context(), api.ImportRequest{Name: "x", Source: "-"}, r, nil)
	if err != nil || img.Name != "x" {
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
		_, err := l.client.ImportKernel(t.Context(), api.ImportRequest{Name: "bad", Source: name}, src, nil, nil, nil)
		wantCode(t, err, api.CodeBadInput)
		l.wantNoLeftovers(t)
	}
	if len(l.images.List())+len(l.kernels.List()) > 0 {
		t.Errorf("listed are %v, %v", l.images.List(), l.kernels.List())
	}
}

// An import that is refused names what it was given, and says what to do.
func TestImportHints(t *testing.T) {
	l := newLab(t)
	dir, err := os.Open(t.TempDir())
	must(t, err)
	defer dir.Close()
	r, w, err := os.Pipe()
	must(t, err)
	must(t, w.Close())
	defer r.Close()
	tarOf := func(files ...string) *os.File { return file(t, tarWith(t, files...)) }
	two := `[{"Config":"a.json","RepoTags":["a:1"],"Layers":["x"]},{"Config":"b.json","RepoTags":["b:2"],"Layers":["y"]}]`
	for _, c := range []struct {
		req           api.ImportRequest
		src           *os.File
		message, hint string
	}{
		{api.ImportRequest{Name: "x", Source: "my dir"}, dir,
			`import image "my dir": unknown format: directory with neither`, `tar -C 'my dir' -c . | banger image import --name it -`},
		{api.ImportRequest{Name: "x", Source: "x.deb"}, file(t, []byte("!<arch>\n")), `image "x.deb": unknown format: no image: Debian package`, `"banger kernel import x.deb"`},
		{api.ImportRequest{Name: "x", Source: "standard input"}, r, `image "standard input": nothing in the image: empty input`, "nothing came"},
		{api.ImportRequest{Name: "x", Source: "notes"}, file(t, []byte("hello")), `image "notes": unknown format`, "an image is a tar"},
		{api.ImportRequest{Name: "x", Source: "cut.tar"}, file(t, rootfs(t, "cut")[:700]), `image "cut.tar": tar: corrupt`, "cut off"},
		{api.ImportRequest{Name: "x", Source: "odd.tar"}, tarOf("a/layer.tar", "", "manifest.json", "[]"),
			`image "odd.tar": container archive`, "mkdir it && tar -C it -xf odd.tar && banger image import it"},
		{api.ImportRequest{Name: "x", Source: "two.tar"}, tarOf("manifest.json", two), `several images: a:1, b:2`, "--name it --ref REF two.tar"},
		{api.ImportRequest{Name: "x", Source: "two.tar", Ref: "c"}, tarOf("manifest.json", two), `image "c": missing from input: there is a:1, b:2`, "--ref"},
		{api.ImportRequest{Name: "x", Source: "two.tar", Ref: "b:2"}, tarOf("manifest.json", two), "b.json: missing from input", "save"},
	} {
		c.req.Name = "it"
		_, err := l.client.ImportImage(t.Context(), c.req, c.src, nil)
		wantHint(t, err, c.message, c.hint)
	}
	_, err = l.client.ImportKernel(t.Context(), api.ImportRequest{Name: "it", Source: "debian.tar"}, file(t, rootfs(t, "a")), nil, nil, nil)
	wantHint(t, err, `import kernel "debian.tar": not a kernel`, `"banger image import debian.tar"`)
	l.wantNoLeftovers(t)
}

func wantHint(t testing.TB, err error, message, hint string) {
	t.Helper()
	wantCode(t, err, api.CodeBadInput)
	var e *api.Error
	if errors.As(err, &e) && (!strings.Contains(e.Message, message) || !strings.Contains(e.HintText, hint)) {
		t.Errorf("got %q, hint %q, want %q, hint %q", e.Message, e.HintText, message, hint)
	}
}

// tarWith is a tar of files, name and content by turns.
func tarWith(t testing.TB, files ...string) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for i := 0; i < len(files); i += 2 {
		must(t, w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: files[i], Size: int64(len(files[i+1])), Mode: 0o644}))
		_, err := w.Write([]byte(files[i+1]))
		must(t, err)
	}
	must(t, w.Close())
	return b.Bytes()
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

// An import tells its end, and what it took, where nobody looks at a live line.
func TestImportTellsItsSteps(t *testing.T) {
	l := newLab(t)
	var steps []string
	show := func(ev api.Event) {
		if ev.Done && ev.Millis > 0 {
			steps = append(steps, ev.Step)
		}
	}
	_, err := l.client.ImportImage(t.Context(), api.ImportRequest{Name: "a", Source: "a.tar"}, file(t, rootfs(t, "a")), show)
	must(t, err)
	if len(steps) != 1 || steps[0] != "import" {
		t.Errorf("steps are %q", steps)
	}
	steps = nil
	_, err = l.client.ImportImage(t.Context(), api.ImportRequest{Name: "b", Source: "b.tar"}, file(t, []byte("no tar")), show)
	wantCode(t, err, api.CodeBadInput)
	if len(steps) != 0 {
		t.Errorf("steps of what failed are %q", steps)
	}
}

// A configuration beside the kernel is read, and judged.
func TestImportKernelWithItsConfiguration(t *testing.T) {
	l := newLab(t)
	image := kerneltest.BzImage("6.1.0-test (test@test) #1", kerneltest.Gzip(kerneltest.Vmlinux(kerneltest.Machine, "6.1.0-test (test@test) #1", true, nil)))
	_, err := l.client.ImportKernel(t.Context(), api.ImportRequest{Name: "linux", Source: "vmlinuz"}, file(t, image), nil, file(t, []byte("CONFIG_VIRTIO=y\n")), nil)
	wantCode(t, err, api.CodeBadInput)
	if err == nil || !strings.Contains(err.Error(), "CONFIG_VIRTIO_BLK is missing") {
		t.Errorf("error is %v", err)
	}
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
			_, err := l.client.ImportImage(ctx, api.ImportRequest{Name: "x", Source: "-"}, r, nil)
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

func fds(t testing.TB) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	must(t, err)
	return len(entries)
}
