package daemon

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"time"

	"banger/ops"
	"banger/personas/api"
	"banger/personas/daemon/vm"
)

func (d *Daemon) inventory(w http.ResponseWriter, r *http.Request) error {
	_, files, err := ops.Inventory.Call(r.Context(), d.helper, ops.None{})
	if err != nil {
		return err
	}
	defer files[0].Close()
	const limit = 16 << 20
	raw, err := io.ReadAll(io.NewSectionReader(files[0], 0, limit))
	if err != nil {
		return fmt.Errorf("read inventory: %w", err)
	}
	return writeJSON(w, json.RawMessage(raw))
}

func (d *Daemon) listVMs(w http.ResponseWriter, _ *http.Request) error {
	return writeJSON(w, d.vms.List())
}

func (d *Daemon) showVM(w http.ResponseWriter, r *http.Request) error {
	v, err := d.vms.Show(r.PathValue("name"))
	if err != nil {
		return err
	}
	return writeJSON(w, v)
}

func (d *Daemon) createVM(w http.ResponseWriter, r *http.Request) error {
	var spec api.VMSpec
	if err := readJSON(r, &spec); err != nil {
		return err
	}
	rec, unpin, err := d.plan(r.Context(), spec)
	if err != nil {
		return err
	}
	return stream(w, func(emit func(api.Event)) (any, error) {
		defer unpin() // before the client knows, and asks for what a pin forbids
		return d.vms.Create(r.Context(), rec, emit)
	})
}

// plan fills in everything that asked left open. It changes nothing that can be seen.
func (d *Daemon) plan(ctx context.Context, asked api.VMSpec) (rec vm.Record, unpin func(), err error) {
	spec, err := d.complete(asked)
	if err != nil {
		return rec, nil, err
	}
	img, unpinImage, err := d.images.Pin(spec.Image)
	if err != nil {
		return rec, nil, spec.blame("image", asked.Image != "", err)
	}
	kernel, unpinKernel, err := d.kernels.Pin(spec.Kernel)
	if err != nil {
		unpinImage()
		return rec, nil, spec.blame("kernel", asked.Kernel != "", err)
	}
	both := func() { unpinImage(); unpinKernel() }
	defer func() {
		if err != nil {
			both()
		}
	}()
	img = d.reseal(ctx, img)
	spec.Image, spec.Kernel = img.Name, kernel.Name
	if asked.DiskBytes == 0 {
		spec.DiskBytes = max(spec.DiskBytes, img.SizeBytes)
	}
	if spec.DiskBytes < img.SizeBytes {
		return rec, nil, &api.Error{Code: api.CodeUsage,
			Message:  fmt.Sprintf("disk of %d bytes: image %s needs %d", spec.DiskBytes, img.Name, img.SizeBytes),
			HintText: "ask for a larger --disk"}
	}
	spec.DiskBytes = (spec.DiskBytes + 4095) &^ 4095
	if spec.Init == "" {
		spec.Init = api.InitAuto
	}
	if spec.Init == api.InitImage && !img.HasInit {
		return rec, nil, &api.Error{Code: api.CodeConflict, Message: fmt.Sprintf("image %s has no init", img.Name),
			HintText: "use --init auto or --init banger"}
	}
	hello, _, err := ops.Hello.Call(ctx, d.helper, ops.None{})
	if err != nil {
		return rec, nil, err
	}
	rec.VMM, rec.Emulated, err = chooseVMM(hello, spec.VMM)
	if err != nil {
		return rec, nil, spec.blame("vmm", asked.VMM != "", err)
	}
	rec.Backend, err = d.chooseBackend(hello, spec.Backend, img.SizeBytes)
	if err != nil {
		return rec, nil, spec.blame("backend", asked.Backend != "", err)
	}
	if rec.HostKey, err = newHostKey(); err != nil {
		return rec, nil, err
	}
	rec.Spec, rec.Sync = spec.VMSpec, spec.conf.Sync
	rec.Image = vm.Image{
		Name: img.Name, Digest: img.Digest, Path: img.Path, Bytes: img.SizeBytes, Seal: img.Seal,
		Env: img.Env, User: img.User, WorkDir: img.WorkDir,
	}
	rec.Kernel = vm.Kernel{Name: kernel.Name, Digest: kernel.Digest}
	return rec, both, nil
}

func (d *Daemon) deleteVM(w http.ResponseWriter, r *http.Request) error {
	force, err := boolParam(r, "force")
	if err != nil {
		return err
	}
	return stream(w, func(func(api.Event)) (any, error) {
		return struct{}{}, d.vms.Delete(r.Context(), r.PathValue("name"), force)
	})
}

func (d *Daemon) startVM(w http.ResponseWriter, r *http.Request) error {
	return stream(w, func(emit func(api.Event)) (any, error) {
		return d.vms.Start(r.Context(), r.PathValue("name"), emit)
	})
}

func (d *Daemon) stopVM(w http.ResponseWriter, r *http.Request) error {
	grace, err := graceOf(r)
	if err != nil {
		return err
	}
	return stream(w, func(emit func(api.Event)) (any, error) {
		return d.vms.Stop(r.Context(), r.PathValue("name"), grace, emit)
	})
}

func (d *Daemon) restartVM(w http.ResponseWriter, r *http.Request) error {
	grace, err := graceOf(r)
	if err != nil {
		return err
	}
	return stream(w, func(emit func(api.Event)) (any, error) {
		return d.vms.Restart(r.Context(), r.PathValue("name"), grace, emit)
	})
}

func (d *Daemon) killVM(w http.ResponseWriter, r *http.Request) error {
	return stream(w, func(func(api.Event)) (any, error) {
		return d.vms.Kill(r.Context(), r.PathValue("name"))
	})
}

// boolParam reads a parameter that is true or false, and false where it is missing.
func boolParam(r *http.Request, name string) (bool, error) {
	switch text := r.URL.Query().Get(name); text {
	case "true":
		return true, nil
	case "", "false":
		return false, nil
	default:
		return false, &api.Error{Code: api.CodeUsage, Message: fmt.Sprintf("%s %q: want true or false", name, text)}
	}
}

// graceOf reads how long a guest may take to shut down; zero means the default.
func graceOf(r *http.Request) (time.Duration, error) {
	text := r.URL.Query().Get("timeout_ms")
	if text == "" {
		return 0, nil
	}
	const most = 3600_000
	ms, err := strconv.Atoi(text)
	if err != nil || ms < 0 || ms > most {
		return 0, &api.Error{Code: api.CodeUsage, Message: fmt.Sprintf("timeout_ms %q: want 0 to %d", text, most)}
	}
	return time.Duration(ms) * time.Millisecond, nil
}

// hold keeps the connection until its client goes away.
func (d *Daemon) hold(w http.ResponseWriter, r *http.Request) error {
	release, err := d.vms.Hold(r.PathValue("name"))
	if err != nil {
		return err
	}
	conn, done, err := d.upgrade(w, r)
	if err != nil {
		release()
		return err
	}
	defer done()
	io.Copy(io.Discard, conn)
	// The daemon's own end is not the client's: the VM is not let go of then.
	if d.ctx.Err() == nil {
		release()
	}
	return nil
}

func (d *Daemon) agent(w http.ResponseWriter, r *http.Request) error {
	file, err := d.vms.Agent(r.Context(), r.PathValue("name"))
	if err != nil {
		return err
	}
	defer file.Close()
	conn, done, err := d.upgrade(w, r)
	if err != nil {
		return err
	}
	defer done()
	if err := api.SendFiles(conn, file); err != nil {
		return told{fmt.Errorf("hand over agent connection: %w", err)}
	}
	return nil
}

// logs copies the serial log, and follows it while the VM runs where asked to.
func (d *Daemon) logs(w http.ResponseWriter, r *http.Request) error {
	follow, err := boolParam(r, "follow")
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	defer context.AfterFunc(d.ctx, cancel)()
	f, over, err := d.vms.Serial(ctx, r.PathValue("name"), follow)
	if err != nil {
		return err
	}
	defer f.Close()
	w.Header().Set("Content-Type", "application/octet-stream")
	if !follow {
		over = nil
	}
	rc := http.NewResponseController(w)
	if err := copyLog(ctx, w, f, over, func() { rc.Flush() }); err != nil {
		return told{fmt.Errorf("write logs: %w", err)}
	}
	return nil
}

// copyLog copies what a log holds, and what comes until over is closed; nil means
// that nothing will. A log that became shorter has been emptied, because it had
// grown too large, and is copied from its beginning. The end of ctx is no error.
func copyLog(ctx context.Context, w io.Writer, f *os.File, over <-chan struct{}, flush func()) error {
	tick := time.NewTicker(followEvery)
	defer tick.Stop()
	for from := int64(0); ; {
		info, err := f.Stat()
		if err != nil {
			return err
		}
		if info.Size() < from {
			from = 0
		}
		n, err := io.Copy(w, io.NewSectionReader(f, from, info.Size()-from))
		if err != nil {
			return err
		}
		from += n
		if over == nil {
			return nil
		}
		flush()
		select {
		case <-over:
			over = nil // once more, for its last words
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// followEvery is how often a followed log is looked at. The log's folder is
// root's, so that there is no event to wait for.
const followEvery = 200 * time.Millisecond
