package daemon

import (
	"cmp"
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
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"banger/personas/api"
	"banger/personas/daemon/catalog"
	"banger/store"
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
	if err := d.kernels.Delete(r.PathValue("name")); err != nil {
		return err
	}
	d.pruneInitrds()
	return nil
}

// importer does one import out of the descriptors that came along, into the
// empty folder dir.
type importer func(ctx context.Context, dir string, req api.ImportRequest, files []*os.File, emit func(api.Event)) (any, error)

// receiveTime bounds the wait for descriptors after an upgrade.
const receiveTime = 10 * time.Second

// importFrom takes the connection over, receives the descriptors, and streams
// what run says. A client that goes away ends the import, and so does the end of
// the daemon.
func (d *Daemon) importFrom(w http.ResponseWriter, r *http.Request, names func(api.ImportRequest) []string, run importer) error {
	var req api.ImportRequest
	if err := readJSON(r, &req); err != nil {
		return err
	}
	conn, done, err := d.upgrade(w, r)
	if err != nil {
		return err
	}
	defer done()
	ctx, cancel := context.WithCancel(context.WithoutCancel(r.Context()))
	defer cancel()
	conn.SetReadDeadline(time.Now().Add(receiveTime))
	got, err := receive(conn, names(req))
	conn.SetReadDeadline(time.Time{})
	e := &events{w: conn, flush: func() {}}
	var result any
	if err == nil {
		var watch sync.WaitGroup
		watch.Go(func() { // the client sends nothing more: what ends here is the client, or the daemon
			io.Copy(io.Discard, conn)
			cancel()
		})
		defer watch.Wait()
		defer conn.Close()
		result, err = d.inTemp(func(dir string) (any, error) { return run(ctx, dir, req, got, e.emit) })
		err = nameFiles(err, got)
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
	return d.importFrom(w, r, func(req api.ImportRequest) []string { return []string{req.Source} }, d.imageInto)
}

func (d *Daemon) imageInto(ctx context.Context, dir string, req api.ImportRequest, files []*os.File, emit func(api.Event)) (any, error) {
	src, closeSrc, err := imageSource(ctx, files[0])
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
	var digest string
	end := api.Begin(emit, "import")
	info, err := image.Import(ctx, src, path, image.Options{
		Name: req.Source, Label: "banger", Ref: req.Ref,
		Progress: func(n int64) {
			if n-last.Load() >= progressBytes {
				last.Store(n)
				emit(api.Event{Step: "import", Bytes: n})
			}
		},
		Finished: func(f *os.File) (err error) {
			digest, err = store.Digest(ctx, f)
			return err
		},
	})
	if err != nil {
		return nil, badInput(err, req)
	}
	end()
	// Read-only, and readable by the VMs that share it: only a descriptor leads
	// to it, because its folder is the owner's alone.
	if err := os.Chmod(path, 0o444); err != nil {
		return nil, fmt.Errorf("import image: %w", err)
	}
	seal, err := sealFile(path, digest)
	if err != nil {
		return nil, fmt.Errorf("import image: %w", err)
	}
	img := catalog.Image{Seal: seal, Image: api.Image{
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
func imageSource(ctx context.Context, f *os.File) (image.Source, func(), error) {
	info, err := f.Stat()
	switch {
	case err != nil:
		return image.Source{}, nil, fmt.Errorf("open image: %w", err)
	case info.IsDir():
		root, err := openRoot(f)
		if err != nil {
			return image.Source{}, nil, fmt.Errorf("open image: %w", err)
		}
		return image.FromDir(root.FS()), func() { root.Close() }, nil
	case !info.Mode().IsRegular():
		return image.FromReader(&patientReader{ctx, f}), func() {}, nil
	}
	src, err := image.FromFile(f)
	return src, func() {}, err
}

// openRoot opens the directory behind a descriptor.
func openRoot(f *os.File) (*os.Root, error) { return os.OpenRoot(procName(f)) }

// procName leads to what f has open, and means nothing to anybody else.
func procName(f *os.File) string { return fmt.Sprintf("/proc/self/fd/%d", f.Fd()) }

// nameFiles makes err one for the user, who does not know files by our numbers:
// what is below a directory is called by its real name.
func nameFiles(err error, files []*os.File) error {
	if err == nil {
		return nil
	}
	e := explain(err, "")
	for _, f := range files {
		name, lerr := os.Readlink(procName(f))
		if lerr != nil || !filepath.IsAbs(name) { // a pipe
			name = f.Name()
		}
		number := regexp.MustCompile(regexp.QuoteMeta(procName(f)) + `\b`)
		e.Message = number.ReplaceAllLiteralString(e.Message, name)
	}
	return e
}

// patientReader reads a pipe or a socket of somebody else's, whose mode must
// stay as it is: a read of it blocks, and its writer may never write.
type patientReader struct {
	ctx context.Context
	f   *os.File
}

// Read waits until there is something, and looks meanwhile whether it is wanted.
func (p *patientReader) Read(b []byte) (int, error) {
	const look = 100 // milliseconds
	for {
		if err := p.ctx.Err(); err != nil {
			return 0, err
		}
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(p.f.Fd()), Events: unix.POLLIN}}, look)
		switch {
		case err == nil && n > 0:
			return p.f.Read(b)
		case err != nil && err != unix.EINTR:
			return 0, fmt.Errorf("wait for input: %w", err)
		}
	}
}

func (d *Daemon) importKernel(w http.ResponseWriter, r *http.Request) error {
	names := func(req api.ImportRequest) []string {
		names := []string{req.Source}
		if req.Modules {
			names = append(names, cmp.Or(req.Release, "modules"))
		}
		if req.Config {
			names = append(names, "config")
		}
		return names
	}
	return d.importFrom(w, r, names, d.kernelInto)
}

func (d *Daemon) kernelInto(ctx context.Context, dir string, req api.ImportRequest, files []*os.File, emit func(api.Event)) (any, error) {
	end := api.Begin(emit, "import")
	src := kernel.Source{Path: req.Source, File: files[0]}
	if req.Modules {
		root, err := openRoot(files[1])
		if err != nil {
			return nil, fmt.Errorf("open modules: %w", err)
		}
		defer root.Close()
		src.Modules, src.ModulesFS = cmp.Or(req.Release, nameBehind(files[1])), root.FS()
	}
	if req.Config {
		src.Config = &patientReader{ctx, files[len(files)-1]}
	}
	path := filepath.Join(dir, "item")
	info, err := kernel.Import(ctx, src, path)
	if err != nil {
		return nil, badInput(err, req)
	}
	end()
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

// nameBehind is the last element of the name that a directory was opened by.
func nameBehind(f *os.File) string {
	name, err := os.Readlink(procName(f))
	if err != nil {
		return "modules"
	}
	return filepath.Base(name)
}

// badInput marks what is the input's fault, as far as the error does not say
// that it is the host's.
func badInput(err error, req api.ImportRequest) error {
	e := explain(err, "")
	if e.Code == api.CodeInternal {
		e.Code = api.CodeBadInput
		e.HintText = cmp.Or(e.HintText, importHint(err, req))
	}
	return e
}

func sealFile(path, digest string) (store.Seal, error) {
	f, err := os.Open(path)
	if err != nil {
		return store.Seal{}, err
	}
	defer f.Close()
	return store.SealWith(f, digest)
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
