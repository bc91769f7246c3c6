package cli

import (
	"context"
	"strings"

	"banger/personas/api"
)

// vmExecCmd is `banger vm exec`.
type vmExecCmd struct {
	ioFlags `embed:""`
	Env     []string `short:"e" sep:"none" placeholder:"K=V" help:"Environment of the command, on top of the VM's. May be repeated."`
	User    string   `placeholder:"USER" help:"User: name or number, optionally :group. Default: the VM's, else root."`
	WorkDir string   `name:"workdir" placeholder:"DIR" help:"Working directory. Default: the VM's, else the user's home."`
	VM      string   `arg:"" name:"vm" help:"Name or id of a running VM."`
	Command []string `arg:"" optional:"" passthrough:"partial" name:"cmd" help:"Command and arguments, passed on as they are. Default: a shell."`
}

// Help returns examples.
func (vmExecCmd) Help() string {
	return `The exit code is that of the command: 126 if it cannot be run, 127 if it is not there, 128+n if signal n has killed it. A restart of banger's daemons does not touch it.

    banger vm exec web
    banger vm exec web -- systemctl status nginx
    banger vm exec -i web -- tar x -C /srv < site.tar
    banger vm exec -it --user www-data --workdir /srv web -- bash`
}

// Run runs a command in a running VM.
func (c *vmExecCmd) Run(ctx context.Context, a *app) error {
	cmd, err := a.command(c.Command, c.ioFlags)
	if err != nil {
		return err
	}
	if err := c.check(); err != nil {
		return err
	}
	cmd.env, cmd.user, cmd.dir = append(cmd.env, c.Env...), c.User, c.WorkDir
	client, err := a.daemon(ctx)
	if err != nil {
		return err
	}
	return a.exec(ctx, client, c.VM, cmd)
}

func (c *vmExecCmd) check() error {
	// A spec has the same fields with the same bounds.
	spec := api.VMSpec{Env: c.Env, User: c.User, WorkDir: c.WorkDir}
	if err := spec.Validate(); err != nil {
		return usagef("%v", err)
	}
	for _, arg := range c.Command {
		if strings.ContainsRune(arg, 0) {
			return usagef("argument %q: has a NUL byte", arg)
		}
	}
	return nil
}
