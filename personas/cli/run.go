package cli

import (
	"context"
	"errors"
	"fmt"
	"syscall"
	"time"

	"banger/personas/api"
)

// deleteTimeout bounds the deletion at the end of a run.
const deleteTimeout = time.Minute

// vmRunCmd is `banger vm run`.
type vmRunCmd struct {
	vmFlags `embed:""`
	ioFlags `embed:""`
	Rm      bool     `help:"Delete the VM afterwards, whatever happens. With --detach: when it stops."`
	Detach  bool     `short:"d" help:"Do not wait: print the VM's name once it runs. A command goes on in the VM, its output on the console."`
	Command []string `arg:"" optional:"" passthrough:"partial" name:"cmd" help:"Command and arguments, passed on as they are. Default: a shell."`
}

// Help returns examples.
func (vmRunCmd) Help() string {
	return `Without a command: a shell, on a terminal of its own if this is one; else the shell reads its commands from standard input. The exit code is that of the command. Ctrl-C before the command runs undoes what was begun; three Ctrl-C within a second leave a command that ignores them. Without --rm the VM keeps running.

    sudo banger vm run
    sudo banger vm run --rm -- sh -c 'exit 42'
    sudo banger vm run --rm -i -- sha256sum < file
    sudo banger vm run -d --name web --memory 1g --disk 10g --image debian`
}

// Run creates and starts a VM and runs a command in it.
func (c *vmRunCmd) Run(ctx context.Context, a *app) error {
	spec, err := c.spec()
	if err != nil {
		return err
	}
	cmd, err := c.command(a)
	if err != nil {
		return err
	}
	if spec.AuthorizedKeys, err = a.authorizedKeys(); err != nil {
		return err
	}
	spec.AutoRemove, spec.Unheld = c.Rm, c.Rm && c.Detach
	client, err := a.daemon(ctx)
	if err != nil {
		return err
	}
	show, end := a.progress("")
	vm, err := client.CreateVM(ctx, spec, show)
	if err != nil {
		end()
		return err
	}
	r := &runner{a: a, client: client, vm: vm, remove: c.Rm}
	err = r.start(ctx, c.Rm && !c.Detach, show)
	end()
	if err != nil {
		return r.notStarted(ctx, err)
	}
	if c.Detach {
		return r.detach(ctx, cmd, len(c.Command) > 0)
	}
	return r.finish(ctx, a.exec(ctx, client, r.id(), cmd))
}

func (c *vmRunCmd) command(a *app) (command, error) {
	if c.Detach && (c.Interactive || c.TTY) {
		return command{}, usagef("--detach excludes -i and -t")
	}
	cmd, err := a.command(c.Command, c.ioFlags)
	if c.Detach {
		cmd.detach, cmd.stdin, cmd.tty = true, false, false
	}
	return cmd, err
}

// runner is a VM from its creation by `vm run` to the end of its command.
type runner struct {
	a      *app
	client *api.Client
	vm     api.VM
	remove bool  // the VM is deleted afterwards
	held   *hold // nil if nobody holds it
}

// id is how the VM is named to the daemon: a name may be another VM's by the
// time that this one is deleted.
func (r *runner) id() string { return r.vm.ID }

// start starts the VM. It is held before, so that from here on it does not
// outlive this process.
func (r *runner) start(ctx context.Context, held bool, show func(api.Event)) (err error) {
	if held {
		if r.held, err = r.a.hold(ctx, r.client, r.id()); err != nil {
			return err
		}
	}
	vm, err := r.client.StartVM(ctx, r.id(), show)
	if err == nil {
		r.vm = vm
	}
	return err
}

// notStarted ends a run whose VM did not come up. The reason, and the guest's
// last words that come with it, are shown before anything is deleted.
func (r *runner) notStarted(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		// The user has not waited for the VM, so the VM was not yet theirs.
		return errors.Join(context.Cause(ctx), r.delete(ctx))
	}
	r.a.report(err)
	status := &exitStatus{code: exitCode(err)}
	if r.remove {
		return errors.Join(status, r.delete(ctx))
	}
	r.a.notice("VM %q is kept: see \"banger vm logs %s\", then \"banger vm delete %s\"", r.vm.Name, r.vm.Name, r.vm.Name)
	return status
}

// detach leaves the VM running, and a command in it if one was given.
func (r *runner) detach(ctx context.Context, cmd command, given bool) error {
	if given {
		if err := r.a.exec(ctx, r.client, r.id(), cmd); err != nil {
			if r.remove || ctx.Err() != nil {
				return errors.Join(err, r.delete(ctx))
			}
			return err
		}
	}
	return r.a.printVM(r.vm)
}

// finish ends a run whose command has ended with err.
func (r *runner) finish(ctx context.Context, err error) error {
	if r.remove || ctx.Err() != nil {
		return errors.Join(err, r.delete(ctx))
	}
	r.a.notice("VM %q keeps running: \"banger vm exec %s\" enters it, \"banger vm delete --force %s\" ends it", r.vm.Name, r.vm.Name, r.vm.Name)
	return err
}

// delete deletes the VM, also when ctx has ended. A signal meanwhile gives up
// waiting; a held VM is deleted by the daemon even then.
func (r *runner) delete(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), deleteTimeout)
	defer cancel()
	defer r.a.signals.take(func(syscall.Signal) { cancel() })()
	if r.held != nil {
		// Only afterwards: the daemon would begin to delete by itself.
		defer r.held.release()
	}
	client, err := r.a.daemon(ctx)
	if err == nil {
		err = client.DeleteVM(ctx, r.id(), true, nil)
	}
	var refused *api.Error
	if err == nil || errors.As(err, &refused) && refused.Code == api.CodeNotFound {
		return nil
	}
	if errors.Is(err, context.Canceled) {
		err = fmt.Errorf("delete VM %q: not waited for", r.vm.Name)
	}
	return withHint(err, `VM %q may still be there: see "banger vm list"`, r.vm.Name)
}
