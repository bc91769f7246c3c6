package guest_test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"

	"banger/store/image"
	"banger/store/kernel"
	"banger/store/kernel/initrd"
	"banger/testdata/assets"
)

// shared holds what all tests boot, and is gone after the last.
var shared string

func TestMain(m *testing.M) { os.Exit(runTests(m)) }

func runTests(m *testing.M) int {
	var err error
	if shared, err = os.MkdirTemp("", "guest-test-"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(shared)
	return m.Run()
}

// asset returns a file that testdata/assets.sh makes, or skips.
func asset(t *testing.T, name string) string {
	t.Helper()
	if testing.Short() {
		t.Skip("boots a guest")
	}
	return assets.File(t, name)
}

// program returns the path of a program, or skips.
func program(t *testing.T, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		t.Skipf("boots a guest, and needs %s", name)
	}
	return path
}

// bootable is a kernel with the initrd for it.
type bootable struct {
	dir, initrd string
	info        kernel.Info
}

// modules is the kernel's drive of modules.
func (k *bootable) modules() string { return filepath.Join(k.dir, kernel.DriveFile) }

// cloudKernel imports Debian's kernel for virtual machines, once.
func cloudKernel(t *testing.T) *bootable {
	t.Helper()
	deb := asset(t, "linux-image-cloud.deb")
	k, err := importKernel(t, deb)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

var imported struct {
	once sync.Once
	k    bootable
	err  error
}

func importKernel(t *testing.T, deb string) (*bootable, error) {
	imported.once.Do(func() {
		k := &imported.k
		k.dir, k.initrd = filepath.Join(shared, "kernel"), filepath.Join(shared, "initrd")
		if k.info, imported.err = kernel.Import(t.Context(), kernel.Source{Path: deb}, k.dir); imported.err == nil {
			imported.err = k.buildInitrd()
		}
	})
	return &imported.k, imported.err
}

// buildInitrd writes the initrd with the guest's role as /init.
func (k *bootable) buildInitrd() error {
	binary := filepath.Join(shared, "init")
	build := exec.Command("go", "build", "-ldflags=-s -w -X banger/personas.Version=test", "-o", binary, "./init")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("build guest: %w\n%s", err, out)
	}
	in, err := os.Open(binary)
	if err != nil {
		return err
	}
	defer in.Close()
	stat, err := in.Stat()
	if err != nil {
		return err
	}
	out, err := os.Create(k.initrd)
	if err != nil {
		return err
	}
	err = initrd.Build(out, initrd.Spec{
		Init: in, InitBytes: stat.Size(), Release: k.info.Release, Modules: os.DirFS(filepath.Join(k.dir, kernel.ModulesDir)),
		Boot: k.info.Modules.Boot, OnDemand: k.info.Modules.OnDemand,
	})
	return errors.Join(err, out.Close())
}

// diskOf returns a disk of its own with an asset's root file system.
func diskOf(t *testing.T, name string) string {
	t.Helper()
	tar := asset(t, name)
	made := filepath.Join(shared, name+".ext4")
	if _, err := os.Stat(made); err != nil {
		f, err := os.Open(tar)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		src, err := image.FromFile(f)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := image.Import(t.Context(), src, made, image.Options{FreeBytes: 128 << 20}); err != nil {
			t.Fatal(err)
		}
	}
	disk := filepath.Join(t.TempDir(), "disk")
	command(t, "cp", "--sparse=always", "--reflink=auto", made, disk)
	return disk
}

// emptyDisk makes a disk with an empty file system.
func emptyDisk(t *testing.T, mib int) string {
	t.Helper()
	disk := filepath.Join(t.TempDir(), "disk")
	command(t, program(t, "mkfs.ext4"), "-q", "-F", disk, fmt.Sprintf("%dM", mib))
	return disk
}

func command(t *testing.T, name string, args ...string) {
	t.Helper()
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", name, err, out)
	}
}
