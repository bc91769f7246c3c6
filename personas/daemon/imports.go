package daemon

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync/atomic"
	"time"

	"banger/personas/api"
	"banger/personas/daemon/catalog"
	"banger/store/image"
	"banger/store/kernel"
)

func (d *Daemon) listImages(w http.ResponseWriter, _ *http.Request) error {
	return writeJSON(w, d.images.List())
}

func (d *Daemon) showImage(w http.ResponseWriter, r *http.Request) error {
	img, err := d.images.Find(r.PathValue("name"))
	if err != nil {
		return err
	}
	return writeJSON(w, img)
}

func (d *Daemon) deleteImage(w http.ResponseWriter, r *http.Request) error {
	return d.images.Delete(r.PathValue("name"))
}

func (d *Daemon) listKernels(w http.ResponseWriter, _ *http.Request) error {
	return writeJSON(w, d.kernels.List())
}

func (d *Daemon) showKernel(w http.ResponseWriter, r *http.Request) error {
	k, err := d.kernels.Find(r.PathValue("name"))
	if err != nil {
		return err
	}
	return writeJSON(w, k)
}

func (d *Daemon) deleteKernel(w http.ResponseWriter, r *http.Request) error {
	return d.kernels.Delete(r.PathValue("name"))
}

// importer does one import out of the descriptors that came along, into the
// empty folder dir.
type importer func(ctx context.Context, dir string, req api.ImportRequest, files []*os.File, emit func(api.Event)) (any, error)

// importFrom takes the connection over, receives the descriptors, and streams
// what run says. A client that goes away ends the import.
func (d *Daemon) importFrom(w http.ResponseWriter, r *http.Request, files func(api.ImportRequest) int, run importer) error {
	var req api.ImportRequest
	if err := readJSON(r, &req); err != nil {
		return err
	}
	if req.Name == "" {
		req.Name = nameOf(req.Source)
	}
	conn, done, err := d.upgrade(w, r)
	if err != nil {
		return err
	}
	defer done()
	ctx, cancel := context.WithCancel(context.WithoutCancel(r.Context()))
	defer cancel()
	stop := context.AfterFunc(d.ctx, cancel)
	defer stop()
	got, err := receive(conn, files(req))
	e := &events{w: conn, flush: func() {}}
	var result any
	if err == nil {
		go func() { // the client sends nothing more: what ends here is the client
			io.Copy(io.Discard, conn)
			cancel()
		}()
		result, err = d.inTemp(func(dir string) (any, error) { return run(ctx, dir, req, got, e.emit) })
		for _, f := range got {
			f.Close()
		}
	}
	e.finish(result, err, w.Header().Get(api.RequestIDHeader))
	if err != nil {
		return told{err}
	}
	return nil
}

// inTemp runs act with a folder in the store that is gone afterwards, unless
// it was moved to where it belongs.
func (d *Daemon) inTemp(act func(dir string) (any, error)) (any, error) {
	dir, err := os.MkdirTemp(d.store.TempDir(), "import-")
	if err != nil {
		return nil, fmt.Errorf("import: %w", err)
	}
	result, err := act(dir)
	return result, errors.Join(err, os.RemoveAll(dir))
}

func (d *Daemon) importImage(w http.ResponseWriter, r *http.Request) error {
	return d.importFrom(w, r, func(api.ImportRequest) int { return 1 }, d.imageInto)
}

func (d *Daemon) imageInto(ctx context.Context, dir string, req api.ImportRequest, files []*os.File, emit func(api.Event)) (any, error) {
	src, closeSrc, err := imageSource(files[0])
	if err != nil {
		return nil, err
	}
	defer closeSrc()
	const file = "image.ext4"
	path := filepath.Join(dir, "item", file)
	if err := os.Mkdir(filepath.Dir(path), 0o700); err != nil {
		return nil, fmt.Errorf("import image: %w", err)
	}
	var last atomic.Int64
	info, err := image.Import(ctx, src, path, image.Options{
		Label: "banger",
		Progress: func(n int64) {
			if n-last.Load() >= progressBytes {
				last.Store(n)
				emit(api.Event{Step: "import", Bytes: n})
			}
		},
	})
	if err != nil {
		return nil, badInput(err)
	}
	// Read-only, and readable by the VMs that share it: only a descriptor leads
	// to it, because its folder is the owner's alone.
	if err := os.Chmod(path, 0o444); err != nil {
		return nil, fmt.Errorf("import image: %w", err)
	}
	img := catalog.Image{Image: api.Image{
		Name: req.Name, Digest: info.Digest, SizeBytes: info.SizeBytes,
		Path: filepath.Join(d.images.Path(req.Name), file), Source: req.Source,
		Distro: info.OSName, HasInit: info.Init != "",
		Env: info.Config.Env, Entrypoint: info.Config.Entrypoint, Cmd: info.Config.Cmd,
		User: info.Config.User, WorkDir: info.Config.WorkingDir,
		Default: req.Default, CreatedAt: time.Now().UTC(),
	}}
	return d.images.Publish(filepath.Dir(path), img)
}

// progressBytes is how much input there is between two events of progress.
const progressBytes = 4 << 20

// imageSource tells a directory from a file. A directory is read through a root
// that nothing in it leads out of.
func imageSource(f *os.File) (image.Source, func(), error) {
	info, err := f.Stat()
	if err != nil {
		return image.Source{}, nil, fmt.Errorf("open image: %w", err)
	}
	if info.IsDir() {
		root, err := os.OpenRoot(fmt.Sprintf("/proc/self/fd/%d", f.Fd()))
		if err != nil {
			return image.Source{}, nil, fmt.Errorf("open image: %w", err)
		}
		return image.FromDir(root.FS()), func() { root.Close() }, nil
	}
	src, err := image.FromFile(f)
	return src, func() {}, err
}

func (d *Daemon) importKernel(w http.ResponseWriter, r *http.Request) error {
	files := func(req api.ImportRequest) int {
		if req.Modules {
			return 2
		}
		return 1
	}
	return d.importFrom(w, r, files, d.kernelInto)
}

func (d *Daemon) kernelInto(ctx context.Context, dir string, req api.ImportRequest, files []*os.File, emit func(api.Event)) (any, error) {
	emit(api.Event{Step: "kernel"})
	src := kernel.Source{Path: fmt.Sprintf("/proc/self/fd/%d", files[0].Fd())}
	if req.Modules {
		src.Modules = fmt.Sprintf("/proc/self/fd/%d", files[1].Fd())
	}
	path := filepath.Join(dir, "item")
	info, err := kernel.Import(ctx, src, path)
	if err != nil {
		return nil, badInput(err)
	}
	for _, m := range info.Missing {
		emit(api.Event{Notice: fmt.Sprintf("this kernel lacks %s: %s", m.Option, m.Why)})
	}
	k := catalog.Kernel{
		Kernel: api.Kernel{
			Name: req.Name, Digest: info.Digest, Release: info.Release, SizeBytes: info.SizeBytes,
			Path: filepath.Join(d.kernels.Path(req.Name), kernel.VmlinuxFile), Source: req.Source,
			Modules: info.Modules.Boot, Default: req.Default, CreatedAt: time.Now().UTC(),
		},
		Info: info,
	}
	if k.VmlinuxSHA256, err = fileSHA256(filepath.Join(path, kernel.VmlinuxFile)); err != nil {
		return nil, err
	}
	if info.BzImage {
		if k.BzImageSHA256, err = fileSHA256(filepath.Join(path, kernel.BzImageFile)); err != nil {
			return nil, err
		}
	}
	return d.kernels.Publish(path, k)
}

// badInput marks what is the input's fault, as far as the error does not say
// that it is the host's.
func badInput(err error) error {
	e := explain(err, "")
	if e.Code == api.CodeInternal {
		e.Code = api.CodeBadInput
	}
	return e
}

func fileSHA256(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	sum := sha256.New()
	if _, err := io.Copy(sum, f); err != nil {
		return "", fmt.Errorf("digest %s: %w", path, err)
	}
	return hex.EncodeToString(sum.Sum(nil)), nil
}

var notInName = regexp.MustCompile(`[^a-z0-9]+`)

// nameOf derives a name from what the user imports.
func nameOf(source string) string {
	base := strings.ToLower(filepath.Base(source))
	for _, ext := range []string{".gz", ".xz", ".zst", ".tar", ".tgz", ".deb", ".rpm"} {
		base = strings.TrimSuffix(base, ext)
	}
	name := strings.Trim(notInName.ReplaceAllString(base, "-"), "-")
	name = strings.Trim(name[:min(len(name), 39)], "-")
	if api.CheckName(name) != nil {
		return "imported"
	}
	return name
}
