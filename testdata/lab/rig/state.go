package rig

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"banger/store/kernel/cpio"
	"banger/testdata/lab/talk"
	"banger/testdata/lab/tree"
)

// state is an emulated machine that has booted, and was saved then: the next
// one goes on from there. It lies in the cache.
type state struct {
	disk   string // the root disk as the memory knows it; nobody writes to it
	memory string
	initrd string
}

const (
	diskMiB   = 8 << 10 // sparse
	sharedMiB = 1 << 10 // sparse
)

// settings change with what is done to a machine before it is saved.
const settings = `modprobe -a kvm_amd dm_snapshot tun loop vhost_vsock bridge veth nf_tables
sync
echo 3 >/proc/sys/vm/drop_caches`

// openState returns the saved state of the tree, and makes it where it is not
// there.
func openState(ctx context.Context, t tree.Tree, agent string, tell func(string)) (state, error) {
	cache, err := tree.Cache()
	if err != nil {
		return state{}, err
	}
	digest, err := fileDigest(agent)
	if err != nil {
		return state{}, err
	}
	lock, err := tree.Lock(filepath.Join(cache, "lab", "state.lock"))
	if err != nil {
		return state{}, err
	}
	defer lock.Close()
	dir := filepath.Join(cache, "lab", "state-"+t.Digest+"-"+digest)
	s := state{disk: filepath.Join(dir, diskFile), memory: filepath.Join(dir, "memory"), initrd: filepath.Join(dir, "initrd")}
	if _, err := os.Stat(s.memory); err == nil {
		return s, nil
	}
	old, err := filepath.Glob(filepath.Join(cache, "lab", "state-*"))
	if err != nil {
		return state{}, err
	}
	for _, name := range old {
		if err := os.RemoveAll(name); err != nil {
			return state{}, err
		}
	}
	tell("lab: booting a machine, to be saved for the next ones")
	if err := os.Mkdir(dir, 0o755); err != nil {
		return state{}, err
	}
	return s, s.make(ctx, dir, t, agent)
}

// make boots a machine and saves it.
func (s state) make(ctx context.Context, dir string, t tree.Tree, agent string) error {
	if err := writeInitrd(s.initrd, t, agent); err != nil {
		return fmt.Errorf("write initrd: %w", err)
	}
	raw := filepath.Join(dir, "disk.raw")
	if err := makeDisk(ctx, raw, t.Dir, diskMiB); err != nil {
		return err
	}
	work, err := os.MkdirTemp("", "banger-lab-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	if err := run(ctx, "qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", raw, filepath.Join(work, diskFile)); err != nil {
		return err
	}
	if err := makeDisk(ctx, filepath.Join(work, sharedFile), "", sharedMiB); err != nil {
		return err
	}
	m, err := launch(ctx, work, t, s.initrd, "")
	if err != nil {
		return err
	}
	if err := s.save(ctx, &Host{dir: work, base: m}, m); err != nil {
		return errors.Join(err, m.close())
	}
	// The keeper clears the directory away, and the disk with it.
	if err := run(ctx, "cp", "--sparse=always", filepath.Join(work, diskFile), s.disk); err != nil {
		return errors.Join(err, m.close())
	}
	if err := m.close(); err != nil {
		return err
	}
	return os.Rename(s.memory+".making", s.memory)
}

// save waits for the end of the boot, and saves the machine.
func (s state) save(ctx context.Context, h *Host, m *machine) error {
	if err := h.greet(ctx, ""); err != nil {
		return fmt.Errorf("boot: %w%s", err, h.console())
	}
	defer h.client.Close()
	r, err := h.Run(ctx, talk.Command{User: "root", Args: []string{"sh", "-c", "umount " + Shared + "; " + settings}})
	if err != nil {
		return err
	}
	if r.Code != 0 {
		return errors.New(r.String())
	}
	if err := m.qmp.Execute(ctx, "stop", nil, nil); err != nil {
		return err
	}
	// Slowness is the default, for networks.
	limit := map[string]any{"max-bandwidth": int64(4) << 30}
	if err := m.qmp.Execute(ctx, "migrate-set-parameters", limit, nil); err != nil {
		return err
	}
	if err := m.qmp.Execute(ctx, "migrate", map[string]any{"uri": "exec:cat >" + s.memory + ".making"}, nil); err != nil {
		return err
	}
	return m.migrated(ctx)
}

// makeDisk makes a sparse ext4 disk with the content of a directory, or without any.
func makeDisk(ctx context.Context, file, content string, sizeMiB int) error {
	args := []string{"-q", "-E", "lazy_itable_init=1,lazy_journal_init=1", "-m", "0"}
	if content != "" {
		args = append(args, "-d", content)
	}
	return run(ctx, "mkfs.ext4", append(args, file, fmt.Sprintf("%dM", sizeMiB))...)
}

// makeShared makes the disk that a host's shared files are on.
func makeShared(ctx context.Context, file string, files map[string]string) error {
	dir, err := os.MkdirTemp(filepath.Dir(file), "shared-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if err := os.Chmod(dir, 0o755); err != nil {
		return err
	}
	for name, from := range files {
		to := filepath.Join(dir, name)
		if os.Link(from, to) == nil {
			continue
		}
		if err := run(ctx, "cp", from, to); err != nil {
			return err
		}
	}
	return makeDisk(ctx, file, dir, sharedMiB)
}

// modules are what a machine needs to reach its disk, in the order to load them.
var modules = []string{
	"virtio/virtio_ring", "virtio/virtio", "virtio/virtio_pci_modern_dev", "virtio/virtio_pci_legacy_dev", "virtio/virtio_pci",
	"block/virtio_blk", "char/virtio_console",
}

// writeInitrd writes an initrd whose first process is the agent.
func writeInitrd(name string, t tree.Tree, agent string) error {
	out, err := os.Create(name)
	if err != nil {
		return err
	}
	defer out.Close()
	w := cpio.NewWriter(out)
	for _, dir := range []string{"dev", "root", "modules"} {
		if err := w.Dir(dir, 0o755); err != nil {
			return err
		}
	}
	if err := w.Device("dev/console", 0o600, 5, 1); err != nil {
		return err
	}
	if err := addFile(w, "init", agent); err != nil {
		return err
	}
	for i, m := range modules {
		from := filepath.Join(t.Dir, "usr/lib/modules", t.Release, "kernel/drivers", m+".ko")
		if err := addFile(w, fmt.Sprintf("modules/%02d-%s.ko", i, filepath.Base(m)), from); err != nil {
			return err
		}
	}
	return errors.Join(w.Close(), out.Close())
}

func addFile(w *cpio.Writer, name, from string) error {
	f, err := os.Open(from)
	if err != nil {
		return err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return err
	}
	return w.File(name, 0o755, st.Size(), f)
}

// fileDigest returns a short digest of a file, and of how a state is made.
func fileDigest(name string) (string, error) {
	f, err := os.Open(name)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", err
	}
	fmt.Fprint(h, diskMiB, sharedMiB, settings, strings.Join(modules, " "))
	return fmt.Sprintf("%x", h.Sum(nil)[:6]), nil
}
