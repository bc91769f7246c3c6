// Package assets finds what testdata/assets.sh has made, for tests.
package assets

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"banger/store/kernel"
	"banger/store/kernel/initrd"
	"banger/testdata/lab/tree"
)

// File returns the path of the asset called name, or skips the test.
func File(t testing.TB, name string) string {
	t.Helper()
	dir, err := tree.Cache()
	if err != nil {
		t.Skipf("needs %s: %v", name, err)
	}
	file := filepath.Join(dir, name)
	if _, err := os.Stat(file); err != nil {
		t.Skipf("needs %s: run testdata/assets.sh %s", name, name)
	}
	return file
}

// Kernel imports Debian's kernel for virtual machines, as "banger kernel import"
// does, into a directory that lives as long as the test.
func Kernel(t testing.TB) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "kernel")
	if _, err := kernel.Import(t.Context(), kernel.Source{Path: File(t, "linux-image-cloud.deb")}, dir); err != nil {
		t.Fatal(err)
	}
	return dir
}

// Initrd builds the Go package pkg, such as "./testdata/guest", and makes an initrd
// with it as /init and with modules of kernelDir, which Kernel has made. They are named
// below .../kernel, without ".ko", and listed for the guest in initrd.ModuleList.
// The file lives as long as the test.
func Initrd(t testing.TB, kernelDir, pkg string, modules []string) string {
	t.Helper()
	dir := t.TempDir()
	init, file := filepath.Join(dir, "init"), filepath.Join(dir, "initrd")
	build := exec.CommandContext(t.Context(), "go", "build", "-ldflags=-s -w", "-o", init, pkg)
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build %s: %v\n%s", pkg, err, out)
	}
	if err := writeInitrd(file, init, kernelDir, modules); err != nil {
		t.Fatal(err)
	}
	return file
}

func writeInitrd(file, init, kernelDir string, modules []string) error {
	in, err := os.Open(init)
	if err != nil {
		return err
	}
	defer in.Close()
	info, err := in.Stat()
	if err != nil {
		return err
	}
	spec := initrd.Spec{Init: in, InitBytes: info.Size(), Release: "test", Modules: os.DirFS(filepath.Join(kernelDir, kernel.ModulesDir))}
	for _, m := range modules {
		spec.Boot = append(spec.Boot, "kernel/"+m+".ko")
	}
	out, err := os.Create(file)
	if err != nil {
		return err
	}
	return errors.Join(initrd.Build(out, spec), out.Close())
}
