package daemon

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"sync"

	"banger/personas/api"
	"banger/personas/daemon/catalog"
	"banger/personas/daemon/vm"
	"banger/store"
	"banger/store/kernel"
	"banger/store/kernel/initrd"
)

// initrds makes an initrd once for each kernel and build of banger.
type initrds struct {
	dir string
	// open returns the program that becomes /init and its length.
	open func() (io.ReadCloser, int64, error)

	// mu is held while an initrd is made: whoever needs the same one waits.
	mu     sync.Mutex
	digest string            // of the program, in hex; empty until it is needed
	made   map[string]string // digest of the initrd by digest of its kernel
}

// get returns the path and the digest of the initrd for k, whose files are in dir.
func (i *initrds) get(ctx context.Context, k *catalog.Kernel, dir string) (path, digest string, err error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if d, ok := i.made[k.Digest]; ok {
		return filepath.Join(i.dir, d), d, nil
	}
	link, err := i.linkLocked(k.Digest)
	if err != nil {
		return "", "", fmt.Errorf("make initrd: %w", err)
	}
	target, err := os.Readlink(link)
	if err == nil {
		if _, serr := os.Stat(filepath.Join(i.dir, target)); serr == nil {
			i.made[k.Digest] = target
			return filepath.Join(i.dir, target), target, nil
		}
	}
	if digest, err = i.build(ctx, k, dir); err != nil {
		return "", "", fmt.Errorf("make initrd: %w", err)
	}
	if err := os.Remove(link); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", "", fmt.Errorf("make initrd: %w", err)
	}
	if err := os.Symlink(digest, link); err != nil {
		return "", "", fmt.Errorf("make initrd: %w", err)
	}
	i.made[k.Digest] = digest
	return filepath.Join(i.dir, digest), digest, nil
}

// linkLocked is the path of the link to the initrd for a kernel: what it was made of
// leads to what came out, also after a restart.
func (i *initrds) linkLocked(kernel string) (path string, err error) {
	if i.digest == "" {
		if i.digest, err = i.programDigest(); err != nil {
			return "", err
		}
	}
	key := sha256.Sum256([]byte(i.digest + kernel))
	return filepath.Join(i.dir, "of-"+hex.EncodeToString(key[:])), nil
}

// prune removes what is of no use any more: initrds of kernels that are not listed, or
// of another build of banger, and what a crash has left half written.
func (i *initrds) prune(list func() []catalog.Kernel) error {
	i.mu.Lock()
	defer i.mu.Unlock()
	keep, digests := make(map[string]bool), make(map[string]bool)
	for _, k := range list() {
		link, err := i.linkLocked(k.Digest)
		if err != nil {
			return fmt.Errorf("prune initrds: %w", err)
		}
		digests[k.Digest] = true
		if target, err := os.Readlink(link); err == nil {
			keep[filepath.Base(link)], keep[target] = true, true
		}
	}
	maps.DeleteFunc(i.made, func(kernel, _ string) bool { return !digests[kernel] })
	entries, err := os.ReadDir(i.dir)
	if err != nil {
		return fmt.Errorf("prune initrds: %w", err)
	}
	for _, e := range entries {
		if keep[e.Name()] {
			continue
		}
		if err := os.Remove(filepath.Join(i.dir, e.Name())); err != nil {
			return fmt.Errorf("prune initrds: %w", err)
		}
	}
	return nil
}

// pruneInitrds is prune beside what matters more.
func (d *Daemon) pruneInitrds() {
	if err := d.initrds.prune(d.kernels.List); err != nil {
		d.log.Warn("leave initrds that are of no use", "error", err)
	}
}

func (i *initrds) programDigest() (string, error) {
	program, _, err := i.open()
	if err != nil {
		return "", err
	}
	defer program.Close()
	sum := sha256.New()
	if _, err := io.Copy(sum, program); err != nil {
		return "", err
	}
	return hex.EncodeToString(sum.Sum(nil)), nil
}

// build writes the initrd to a file that is named by its digest.
func (i *initrds) build(ctx context.Context, k *catalog.Kernel, dir string) (digest string, err error) {
	if err := ctx.Err(); err != nil {
		return "", err
	}
	program, size, err := i.open()
	if err != nil {
		return "", err
	}
	defer program.Close()
	tmp, err := os.CreateTemp(i.dir, ".tmp-")
	if err != nil {
		return "", err
	}
	defer os.Remove(tmp.Name())
	defer tmp.Close()
	sum := sha256.New()
	err = initrd.Build(io.MultiWriter(tmp, sum), initrd.Spec{
		Init: program, InitBytes: size, Release: k.Release,
		Modules: os.DirFS(filepath.Join(dir, kernel.ModulesDir)),
		Boot:    k.Info.Modules.Boot, OnDemand: k.Info.Modules.OnDemand,
	})
	if err != nil {
		return "", err
	}
	if err := tmp.Sync(); err != nil {
		return "", err
	}
	digest = hex.EncodeToString(sum.Sum(nil))
	if err := os.Rename(tmp.Name(), filepath.Join(i.dir, digest)); err != nil {
		return "", err
	}
	return digest, store.SyncDir(i.dir)
}

// bootFiles finds or makes what a kernel boots with.
func (d *Daemon) bootFiles(ctx context.Context, want vm.Kernel, vmm api.VMM) (vm.Boot, error) {
	k, err := d.kernels.Find(want.Name)
	if err != nil {
		return vm.Boot{}, err
	}
	if k.Digest != want.Digest {
		return vm.Boot{}, fmt.Errorf("find kernel %s: it is not the one that the VM was made with", want.Name)
	}
	dir := d.kernels.Path(k.Name)
	b := vm.Boot{Kernel: filepath.Join(dir, kernel.VmlinuxFile), KernelSHA256: k.VmlinuxSHA256}
	if vmm == api.VMMQEMU && !k.Info.PVH && k.BzImageSHA256 != "" {
		b.Kernel, b.KernelSHA256 = filepath.Join(dir, kernel.BzImageFile), k.BzImageSHA256
	}
	drive := filepath.Join(dir, kernel.DriveFile)
	if _, err := os.Stat(drive); err == nil { // not there: imported by a banger that made none
		b.Modules = drive
	}
	b.Initrd, b.InitrdSHA256, err = d.initrds.get(ctx, &k, dir)
	return b, err
}
