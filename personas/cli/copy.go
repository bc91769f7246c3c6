package cli

import (
	"context"
	"strings"

	"banger/personas/guest/link"
)

// vmCopyCmd is `banger vm cp`.
type vmCopyCmd struct {
	Archive bool     `short:"a" help:"Keep numeric owners. Without it, copies belong to root in the guest, and to you on the host."`
	Paths   []string `arg:"" name:"path" help:"Sources, then the destination. One side is VM:PATH."`
}

// Help returns examples.
func (vmCopyCmd) Help() string {
	return `Files and trees keep their modes, times, links and holes; setuid, setgid and sticky bits go into a guest, and do not come out of it. A destination that is a directory takes the sources under their names; with several sources it must be one. A source that ends in "/." means what is in the directory. A local path with a colon is written as ./a:b.

    banger vm cp site.tar.gz config web:/srv/
    banger vm cp web:/var/log/syslog .
    banger vm cp ./site/. web:/srv/site`
}

// Run copies between this host and a VM.
func (c *vmCopyCmd) Run(ctx context.Context, a *app) error {
	j, err := planCopy(c.Paths)
	if err != nil {
		return err
	}
	client, err := a.daemon(ctx)
	if err != nil {
		return err
	}
	conn, err := client.Agent(ctx, j.vm)
	if err != nil {
		return err
	}
	opt := link.CopyOptions{Owners: c.Archive}
	if j.in {
		return link.CopyIn(ctx, conn, j.sources, j.dest, opt)
	}
	return link.CopyOut(ctx, conn, j.sources, j.dest, opt)
}

// copyJob is a copy between the host and one VM.
type copyJob struct {
	vm      string
	in      bool // into the guest
	sources []string
	dest    string
}

func planCopy(paths []string) (copyJob, error) {
	if len(paths) < 2 {
		return copyJob{}, usagef("want at least one source and a destination")
	}
	var j copyJob
	last := len(paths) - 1
	vm, dest, err := splitPath(paths[last])
	if err != nil {
		return copyJob{}, err
	}
	j.vm, j.dest, j.in = vm, dest, vm != ""
	for i, p := range paths[:last] {
		vm, path, err := splitPath(p)
		switch {
		case err != nil:
			return copyJob{}, err
		case j.in && vm != "":
			return copyJob{}, usagef("%s: copies between VMs go through the host", p)
		case !j.in && vm == "":
			return copyJob{}, &usageError{"neither side is in a VM", "write one side as VM:PATH"}
		case !j.in && i > 0 && vm != j.vm:
			return copyJob{}, usagef("%s: all sources must be in the same VM", p)
		}
		if !j.in {
			j.vm = vm
		}
		j.sources = append(j.sources, path)
	}
	return j, nil
}

// splitPath splits VM:PATH. A slash before the colon makes it a local path, as
// scp has it.
func splitPath(arg string) (vm, path string, err error) {
	vm, path, ok := strings.Cut(arg, ":")
	switch {
	case arg == "":
		return "", "", usagef("a path is empty")
	case arg == "-":
		return "", "", &usageError{`"-" is no path: vm cp has no streams`, `"banger vm exec VM -- tar -c PATH" writes one, "banger vm exec -i VM -- tar -x" reads it; a file of that name is ./-`}
	case !ok || strings.Contains(vm, "/"):
		return "", arg, nil
	case vm == "" || path == "":
		return "", "", &usageError{arg + ": want VM:PATH", "a local path with a colon is written as ./" + arg}
	}
	return vm, path, nil
}
