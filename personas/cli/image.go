package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"banger/personas/api"
)

// imageCmd is the noun image.
type imageCmd struct {
	Import imageImportCmd `cmd:"" help:"Import a root file system."`
	List   imageListCmd   `cmd:"" aliases:"ls" help:"List all images."`
	Show   imageShowCmd   `cmd:"" help:"Show everything about an image."`
	Delete imageDeleteCmd `cmd:"" aliases:"rm" help:"Delete images that no VM uses."`
}

// imageImportCmd is `banger image import`.
type imageImportCmd struct {
	Name    string `placeholder:"NAME" help:"Name of the image. Default: from the file's name."`
	Default bool   `help:"Make it the image of VMs that name none."`
	Ref     string `placeholder:"REF" help:"Which of several images in an archive, such as debian:12."`
	Source  string `arg:"" name:"file" help:"A tar (plain, gz, xz, zstd), an archive of docker save, an OCI layout (tar or directory), or - for standard input."`
}

// Help returns examples.
func (imageImportCmd) Help() string {
	return `Neither root nor a mount is needed to make the image. The name of the new image is printed.

    mmdebstrap --variant=minbase stable debian.tar && banger image import debian.tar
    docker save alpine | banger image import --name alpine -
    banger image import --name alpine --ref alpine:3 several.tar
    sudo tar -C rootfs -c . | banger image import --name rootfs -`
}

// Run imports an image.
func (c *imageImportCmd) Run(ctx context.Context, a *app) error {
	req := api.ImportRequest{Name: c.Name, Source: c.Source, Ref: c.Ref, Default: c.Default}
	src, err := a.openSource(c.Source)
	if err != nil {
		return err
	}
	defer src.Close()
	if c.Source == "-" {
		req.Source = "standard input"
	}
	if req.Name == "" {
		if req.Name, err = nameFromFile(c.Source); err != nil {
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
	img, err := client.ImportImage(ctx, req, src, show)
	end()
	if err != nil {
		return err
	}
	if a.json {
		return a.printJSON(img)
	}
	return a.printNames([]string{img.Name})
}

// openSource opens what an import reads. A file that is not there is the user's
// mistake; nothing was changed.
func (a *app) openSource(path string) (*os.File, error) {
	if path == "-" {
		if isTerminal(a.in) {
			return nil, &usageError{"standard input is a terminal", `pipe something into "import -", or name a file`}
		}
		fd, err := unix.FcntlInt(a.in.Fd(), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			return nil, fmt.Errorf("open standard input: %w", err)
		}
		return os.NewFile(uintptr(fd), "standard input"), nil
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, usagef("%v", err)
	}
	return f, nil
}

// archiveSuffixes are the endings that a name derived from a file leaves out.
var archiveSuffixes = []string{
	".gz", ".xz", ".zst", ".zstd", ".bz2", ".tgz", ".txz", ".tar", ".oci", ".ext4", ".img", ".deb", ".rpm",
}

// nameFromFile makes the name of an image or a kernel out of its file's.
func nameFromFile(path string) (string, error) {
	if path == "-" {
		return "", &usageError{"standard input has no name", "give --name NAME"}
	}
	abs, err := filepath.Abs(path)
	if err != nil {
		return "", fmt.Errorf("find name of %s: %w", path, err)
	}
	base := strings.ToLower(filepath.Base(abs))
	for again := true; again; {
		again = false
		for _, s := range archiveSuffixes {
			if rest, ok := strings.CutSuffix(base, s); ok && rest != "" {
				base, again = rest, true
			}
		}
	}
	name := sanitize(base)
	if err := api.CheckName(name); err != nil {
		return "", &usageError{fmt.Sprintf("no name can be made of %q", filepath.Base(abs)), "give --name NAME"}
	}
	return name, nil
}

// sanitize replaces what no name may have by single dashes, and cuts what is
// too long.
func sanitize(s string) string {
	var b strings.Builder
	for _, r := range s {
		ok := r >= 'a' && r <= 'z' || r >= '0' && r <= '9'
		switch {
		case ok:
			b.WriteRune(r)
		case b.Len() > 0 && !strings.HasSuffix(b.String(), "-"):
			b.WriteByte('-')
		}
	}
	const longest = 39
	s = b.String()
	return strings.TrimRight(s[:min(len(s), longest)], "-")
}

// imageListCmd is `banger image list`.
type imageListCmd struct{}

// Help returns examples.
func (imageListCmd) Help() string {
	return `The one marked default is the image of VMs that name none.

    banger image list`
}

// Run lists the images.
func (c *imageListCmd) Run(ctx context.Context, a *app) error {
	client, err := a.daemon(ctx)
	if err != nil {
		return err
	}
	images, err := client.Images(ctx)
	if err != nil {
		return err
	}
	if a.json {
		return a.printJSON(list(images))
	}
	rows, names := make([][]string, len(images)), make([]string, len(images))
	for i, img := range images {
		names[i] = img.Name
		rows[i] = []string{img.Name, shortDigest(img.Digest), humanSize(img.SizeBytes), img.Distro, yes(img.Default), age(img.CreatedAt)}
	}
	if a.quiet {
		return a.printNames(names)
	}
	return a.printTable([]string{"NAME", "DIGEST", "SIZE", "SYSTEM", "DEFAULT", "AGE"}, rows)
}

// imageShowCmd is `banger image show`.
type imageShowCmd struct {
	Image string `arg:"" help:"Name or digest of the image."`
}

// Help returns examples.
func (imageShowCmd) Help() string {
	return `The file is a raw ext4 file system, which is never changed.

    banger image show debian
    banger image show debian --output json | jq -r .path`
}

// Run shows one image.
func (c *imageShowCmd) Run(ctx context.Context, a *app) error {
	client, err := a.daemon(ctx)
	if err != nil {
		return err
	}
	img, err := client.Image(ctx, c.Image)
	if err != nil {
		return err
	}
	if a.json {
		return a.printJSON(img)
	}
	hasInit := "no"
	if img.HasInit {
		hasInit = "yes"
	}
	return a.printFields([][2]string{
		{"name", img.Name}, {"digest", img.Digest}, {"size", humanSize(img.SizeBytes)}, {"file", img.Path}, {"source", img.Source},
		{"system", img.Distro}, {"has init", hasInit}, {"env", strings.Join(img.Env, " ")},
		{"entrypoint", strings.Join(img.Entrypoint, " ")}, {"cmd", strings.Join(img.Cmd, " ")},
		{"user", img.User}, {"workdir", img.WorkDir}, {"default", yes(img.Default)}, {"created", timestamp(img.CreatedAt)},
	})
}

// imageDeleteCmd is `banger image delete`.
type imageDeleteCmd struct {
	Images []string `arg:"" name:"image" help:"Names or digests of images."`
}

// Help returns examples.
func (imageDeleteCmd) Help() string {
	return `An image that a VM uses is refused.

    banger image delete debian`
}

// Run deletes images.
func (c *imageDeleteCmd) Run(ctx context.Context, a *app) error {
	return a.deleteEach(ctx, c.Images, (*api.Client).DeleteImage)
}

// deleteEach deletes one after the other. One that fails does not keep the rest.
func (a *app) deleteEach(ctx context.Context, names []string, del func(*api.Client, context.Context, string) error) error {
	client, err := a.daemon(ctx)
	if err != nil {
		return err
	}
	names = distinct(names)
	results, errs := make([]any, len(names)), make([]error, len(names))
	for i, name := range names {
		if errs[i] = del(client, ctx, name); errs[i] == nil {
			results[i] = deleted{name}
		}
	}
	return errors.Join(append(errs, a.printResults(names, results))...)
}
