package cli

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"

	"banger/personas/api"
)

// kernelCmd is the noun kernel.
type kernelCmd struct {
	Import kernelImportCmd `cmd:"" help:"Import a guest kernel."`
	List   kernelListCmd   `cmd:"" aliases:"ls" help:"List all kernels."`
	Show   kernelShowCmd   `cmd:"" help:"Show everything about a kernel."`
	Delete kernelDeleteCmd `cmd:"" aliases:"rm" help:"Delete kernels that no VM uses."`
}

// kernelImportCmd is `banger kernel import`.
type kernelImportCmd struct {
	Name    string `placeholder:"NAME" help:"Name of the kernel. Default: from the file's name."`
	Default bool   `help:"Make it the kernel of VMs that name none."`
	Host    bool   `help:"Import the kernel that this host runs, with its modules."`
	Modules string `placeholder:"DIR" help:"Module directory of a bare vmlinux or bzImage, such as /lib/modules/6.12.0."`
	Config  string `placeholder:"FILE" help:"Configuration of a bare vmlinux or bzImage, such as /boot/config-6.12.0."`
	Source  string `arg:"" optional:"" name:"file" help:"A kernel package (.deb, .rpm), a bzImage or a vmlinux."`
}

// Help returns examples.
func (kernelImportCmd) Help() string {
	return `A kernel that cannot boot as a guest is refused, with the missing option named. The name of the new kernel is printed.

    apt-get download linux-image-cloud-amd64 && banger kernel import linux-image-*.deb
    banger kernel import --name mine --modules /lib/modules/6.12.0 arch/x86/boot/bzImage
    sudo banger kernel import --host`
}

// Run imports a kernel.
func (c *kernelImportCmd) Run(ctx context.Context, a *app) error {
	src, err := c.open(a.config.Root)
	if err != nil {
		return err
	}
	defer src.close()
	req := api.ImportRequest{Name: c.Name, Source: src.name, Default: c.Default, Release: src.release}
	if req.Name == "" {
		if req.Name, err = nameFromFile(src.name); err != nil {
			return err
		}
	}
	if err := req.Validate(); err != nil {
		return usagef("%v", err)
	}
	client, err := a.daemon(ctx)
	if err != nil {
		return err
	}
	show, end := a.progress("")
	k, err := client.ImportKernel(ctx, req, src.kernel, src.modules, src.config, show)
	end()
	if err != nil {
		return err
	}
	if a.json {
		return a.printJSON(k)
	}
	return a.printNames([]string{k.Name})
}

// kernelSource is what an import of a kernel reads.
type kernelSource struct {
	name    string // of the kernel's file
	release string // of the modules
	kernel  *os.File
	modules *os.File // nil if there are none beside the kernel
	config  *os.File // nil if there is none beside the kernel
}

func (s *kernelSource) close() {
	for _, f := range []*os.File{s.kernel, s.modules, s.config} {
		if f != nil {
			f.Close()
		}
	}
}

// open opens what is to be imported; root is where the host's own kernel is.
func (c *kernelImportCmd) open(root string) (*kernelSource, error) {
	switch {
	case c.Host && (c.Source != "" || c.Modules != "" || c.Config != ""):
		return nil, usagef("--host takes neither a file nor --modules nor --config")
	case c.Host:
		return openHostKernel(root)
	case c.Source == "":
		return nil, &usageError{"neither a file nor --host is given", `see "banger kernel import --help"`}
	case c.Source == "-":
		return nil, usagef("a kernel cannot be read from standard input: name a file")
	}
	return openKernel(c.Source, c.Modules, c.Config)
}

// openKernel opens a kernel and, where they are named, its modules and its
// configuration.
func openKernel(path, modules, config string) (_ *kernelSource, err error) {
	s := &kernelSource{name: path}
	defer func() {
		if err != nil {
			s.close()
		}
	}()
	if s.kernel, err = openRegular(path); err != nil {
		return nil, usagef("%v", err)
	}
	if config != "" {
		if s.config, err = openRegular(config); err != nil {
			return nil, usagef("config: %v", err)
		}
	}
	if modules == "" {
		return s, nil
	}
	abs, err := filepath.Abs(modules)
	if err == nil {
		s.modules, err = os.OpenFile(abs, os.O_RDONLY|unix.O_DIRECTORY, 0)
	}
	if err != nil {
		return nil, usagef("modules: %v", err)
	}
	s.release = filepath.Base(abs)
	return s, nil
}

// openRegular opens a regular file, and does not wait for a writer of a pipe.
func openRegular(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		f.Close()
		return nil, fmt.Errorf("%s: not a regular file", path)
	}
	return f, nil
}

// kernelListCmd is `banger kernel list`.
type kernelListCmd struct{}

// Help returns examples.
func (kernelListCmd) Help() string {
	return `The one marked default is the kernel of VMs that name none.

    banger kernel list`
}

// Run lists the kernels.
func (c *kernelListCmd) Run(ctx context.Context, a *app) error {
	client, err := a.daemon(ctx)
	if err != nil {
		return err
	}
	kernels, err := client.Kernels(ctx)
	if err != nil {
		return err
	}
	if a.json {
		return a.printJSON(list(kernels))
	}
	rows, names := make([][]string, len(kernels)), make([]string, len(kernels))
	for i, k := range kernels {
		names[i] = k.Name
		rows[i] = []string{k.Name, k.Release, shortDigest(k.Digest), humanSize(k.SizeBytes), yes(k.Default), age(k.CreatedAt)}
	}
	if a.quiet {
		return a.printNames(names)
	}
	return a.printTable([]string{"NAME", "RELEASE", "DIGEST", "SIZE", "DEFAULT", "AGE"}, rows)
}

// kernelShowCmd is `banger kernel show`.
type kernelShowCmd struct {
	Kernel string `arg:"" help:"Name or digest of the kernel."`
}

// Help returns examples.
func (kernelShowCmd) Help() string {
	return `With --output json the modules are listed, in the order in which a guest loads them.

    banger kernel show linux-image`
}

// Run shows one kernel.
func (c *kernelShowCmd) Run(ctx context.Context, a *app) error {
	client, err := a.daemon(ctx)
	if err != nil {
		return err
	}
	k, err := client.Kernel(ctx, c.Kernel)
	if err != nil {
		return err
	}
	if a.json {
		return a.printJSON(k)
	}
	return a.printFields([][2]string{
		{"name", k.Name}, {"release", k.Release}, {"digest", k.Digest}, {"size", humanSize(k.SizeBytes)}, {"file", k.Path},
		{"source", k.Source}, {"modules", strconv.Itoa(len(k.Modules))}, {"default", yes(k.Default)}, {"created", timestamp(k.CreatedAt)},
	})
}

// kernelDeleteCmd is `banger kernel delete`.
type kernelDeleteCmd struct {
	Kernels []string `arg:"" name:"kernel" help:"Names or digests of kernels."`
}

// Help returns examples.
func (kernelDeleteCmd) Help() string {
	return `A kernel that a VM uses is refused.

    banger kernel delete linux-image`
}

// Run deletes kernels.
func (c *kernelDeleteCmd) Run(ctx context.Context, a *app) error {
	return a.deleteEach(ctx, c.Kernels, (*api.Client).DeleteKernel)
}
