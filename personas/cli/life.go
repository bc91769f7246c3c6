package cli

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"banger/personas/api"
)

// atOnce is how many VMs a command with several names works on side by side.
const atOnce = 8

// vmNames are the VMs that a command is about.
type vmNames struct {
	VMs []string `arg:"" name:"vm" help:"Names or ids of VMs."`
}

// each runs do for every VM, side by side, prints what came out in the order of
// the names, and joins the errors. One that fails does not keep the others.
func (n vmNames) each(ctx context.Context, a *app, do func(ctx context.Context, c *api.Client, name string, show func(api.Event)) (any, error)) error {
	client, err := a.daemon(ctx)
	if err != nil {
		return err
	}
	names := distinct(n.VMs)
	results, errs := make([]any, len(names)), make([]error, len(names))
	var group errgroup.Group
	group.SetLimit(atOnce)
	for i, name := range names {
		group.Go(func() error {
			prefix := ""
			if len(names) > 1 {
				prefix = oneLine(name) + ": "
			}
			show, end := a.progress(prefix)
			result, err := do(ctx, client, name, show)
			end()
			if err != nil {
				errs[i] = err
				return nil
			}
			results[i] = result
			return nil
		})
	}
	group.Wait()
	return errors.Join(append(errs, a.printResults(names, results))...)
}

// distinct returns names without those that came before.
func distinct(names []string) (once []string) {
	for _, name := range names {
		if !slices.Contains(once, name) {
			once = append(once, name)
		}
	}
	return once
}

// printResults prints those that there are: their names, or all as JSON.
func (a *app) printResults(names []string, results []any) error {
	done, doneNames := []any{}, []string{}
	for i, r := range results {
		if r != nil {
			done, doneNames = append(done, r), append(doneNames, names[i])
		}
	}
	if a.json {
		return a.printJSON(done)
	}
	return a.printNames(doneNames)
}

// vmStartCmd is `banger vm start`.
type vmStartCmd struct {
	vmNames `embed:""`
}

// Help returns examples.
func (vmStartCmd) Help() string {
	return `The names of the VMs that run now are printed.

    banger vm start web db`
}

// Run starts VMs.
func (c *vmStartCmd) Run(ctx context.Context, a *app) error {
	return c.each(ctx, a, func(ctx context.Context, client *api.Client, name string, show func(api.Event)) (any, error) {
		return client.StartVM(ctx, name, show)
	})
}

// stopFlags say how patient a stop is.
type stopFlags struct {
	Timeout time.Duration `placeholder:"DURATION" help:"How long the guest may take, such as 30s, before it is killed. Default: the daemon's."`
}

func (f stopFlags) check() error {
	if f.Timeout < 0 || f.Timeout > time.Hour {
		return usagef("timeout %s: want 0 to 1h", f.Timeout)
	}
	return nil
}

// vmStopCmd is `banger vm stop`.
type vmStopCmd struct {
	stopFlags `embed:""`
	vmNames   `embed:""`
}

// Help returns examples.
func (vmStopCmd) Help() string {
	return `The guest syncs its disk, ends its services and powers off; when it takes longer than the timeout it is killed, after the sync.

    banger vm stop web
    banger vm stop --timeout 2m db`
}

// Run stops VMs.
func (c *vmStopCmd) Run(ctx context.Context, a *app) error {
	if err := c.check(); err != nil {
		return err
	}
	return c.each(ctx, a, func(ctx context.Context, client *api.Client, name string, show func(api.Event)) (any, error) {
		return client.StopVM(ctx, name, c.Timeout, show)
	})
}

// vmRestartCmd is `banger vm restart`.
type vmRestartCmd struct {
	stopFlags `embed:""`
	vmNames   `embed:""`
}

// Help returns examples.
func (vmRestartCmd) Help() string {
	return `As "vm stop" and "vm start"; the disk stays.

    banger vm restart web`
}

// Run restarts VMs.
func (c *vmRestartCmd) Run(ctx context.Context, a *app) error {
	if err := c.check(); err != nil {
		return err
	}
	return c.each(ctx, a, func(ctx context.Context, client *api.Client, name string, show func(api.Event)) (any, error) {
		return client.RestartVM(ctx, name, c.Timeout, show)
	})
}

// vmKillCmd is `banger vm kill`.
type vmKillCmd struct {
	vmNames `embed:""`
}

// Help returns examples.
func (vmKillCmd) Help() string {
	return `As if the VM's power failed. The disk stays.

    banger vm kill web`
}

// Run kills VMs.
func (c *vmKillCmd) Run(ctx context.Context, a *app) error {
	return c.each(ctx, a, func(ctx context.Context, client *api.Client, name string, _ func(api.Event)) (any, error) {
		return client.KillVM(ctx, name)
	})
}

// vmDeleteCmd is `banger vm delete`.
type vmDeleteCmd struct {
	Force   bool `short:"f" help:"Kill a running VM first."`
	vmNames `embed:""`
}

// Help returns examples.
func (vmDeleteCmd) Help() string {
	return `The disk goes with the VM. A running VM is refused unless --force is given.

    banger vm delete web
    banger vm delete --force web db`
}

// Run deletes VMs.
func (c *vmDeleteCmd) Run(ctx context.Context, a *app) error {
	return c.each(ctx, a, func(ctx context.Context, client *api.Client, name string, show func(api.Event)) (any, error) {
		err := client.DeleteVM(ctx, name, c.Force, show)
		var refused *api.Error
		if errors.As(err, &refused) && refused.Code == api.CodeConflict && refused.HintText == "" && !c.Force {
			err = withHint(err, `stop it first, or run "banger vm delete --force %s"`, name)
		}
		return deleted{name}, err
	})
}

// deleted is what JSON says of a thing that is gone.
type deleted struct {
	Name string `json:"name"`
}

// vmLogsCmd is `banger vm logs`.
type vmLogsCmd struct {
	Follow bool   `short:"f" help:"Go on until the VM stops or Ctrl-C."`
	Raw    bool   `help:"Print control characters as they are, even on a terminal."`
	VM     string `arg:"" name:"vm" help:"Name or id of the VM."`
}

// Help returns examples.
func (vmLogsCmd) Help() string {
	return `What the guest's kernel and its console wrote, and what went wrong in the VMM. On a terminal control characters are shown, not obeyed, unless --raw is given.

    banger vm logs web
    banger vm logs --follow web`
}

// Run prints the serial console.
func (c *vmLogsCmd) Run(ctx context.Context, a *app) error {
	client, err := a.daemon(ctx)
	if err != nil {
		return err
	}
	if c.Raw || !isTerminal(a.out) {
		err = client.Logs(ctx, c.VM, c.Follow, a.out)
	} else {
		w := &escaper{w: a.out}
		err = client.Logs(ctx, c.VM, c.Follow, w)
		if cerr := w.Close(); err == nil && cerr != nil {
			err = fmt.Errorf("write logs: %w", cerr)
		}
	}
	var ended *signalError
	if c.Follow && errors.As(err, &ended) {
		return &exitStatus{code: exitCode(err)} // how one ends it is no failure
	}
	return err
}
