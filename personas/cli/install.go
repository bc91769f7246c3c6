package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"os/exec"
	"strings"

	"banger/install"
	"banger/install/layout"
	"banger/personas"
	"banger/personas/api"
)

// installCmd is `banger system install`.
type installCmd struct {
	Owner       string `placeholder:"USER" help:"The user whose VMs these are. Needed the first time."`
	Prefix      string `placeholder:"DIR" help:"Put the binary into DIR/bin; /usr/local by default."`
	Root        string `type:"path" placeholder:"DIR" help:"Write below DIR instead of /, and start nothing: for packages."`
	DryRun      bool   `help:"Print every file and command, and do nothing."`
	Firecracker string `type:"path" placeholder:"PATH" help:"Copy this Firecracker, and use no other."`
	Jailer      string `type:"path" placeholder:"PATH" help:"Copy this jailer, of the same version, and start Firecracker by it."`

	AllowDowngrade bool `help:"Let this binary take the place of a newer one."`
}

// Help returns examples.
func (installCmd) Help() string {
	return `Copies this binary, writes the units of both services and waits until they answer. Again is an upgrade: VMs run on.

    sudo ./banger system install --owner alice
    banger vm run -- uname -a                    # as alice`
}

// Run installs.
func (c installCmd) Run(ctx context.Context, a *app) error {
	err := install.Install(ctx, install.Options{
		Owner: c.Owner, Prefix: c.Prefix, Root: c.Root, DryRun: c.DryRun, Firecracker: c.Firecracker, Jailer: c.Jailer,
		AllowDowngrade: c.AllowDowngrade,
		Build:          build(),
		UIDs:           layout.UIDs{First: int(a.config.Scope.FirstUID), Count: int(a.config.Scope.UIDs)},
		PlanNetwork:    planNetwork, Answer: a.answers, Out: a.err,
	})
	return refused(err)
}

// build is what this binary says of itself.
func build() install.Build {
	version, commit, built := personas.BuildInfo()
	return install.Build{Version: version, Commit: commit, Built: built}
}

// refused makes what the installer refuses a wrong command line: nothing was
// changed.
func refused(err error) error {
	if errors.Is(err, install.ErrRefused) {
		return &usageError{message: err.Error(), hint: `see "banger system install --help"`}
	}
	return err
}

// planNetwork asks the role that knows networks, which root alone may be.
func planNetwork(ctx context.Context) (netip.Prefix, error) {
	cmd := exec.CommandContext(ctx, "/proc/self/exe")
	cmd.Args = []string{"banger-helper", "net", "plan"}
	var why bytes.Buffer
	cmd.Stderr = &why
	out, err := cmd.Output()
	if err != nil {
		return netip.Prefix{}, fmt.Errorf("%w: %s", err, strings.TrimSpace(why.String()))
	}
	return netip.ParsePrefix(strings.TrimSpace(string(out)))
}

// answers asks both services: bangerd answers itself, and for what the inventory
// wants it asks the helper.
func (a *app) answers(ctx context.Context) error {
	c := api.New(api.SocketPath, a.requestID)
	if _, err := c.Version(ctx); err != nil {
		return fmt.Errorf("bangerd: %w", err)
	}
	if _, err := c.Inventory(ctx); err != nil {
		return fmt.Errorf("banger-helper: %w", err)
	}
	return nil
}

// uninstallCmd is `banger system uninstall`.
type uninstallCmd struct {
	Purge  bool   `help:"Remove all VMs, images and kernels as well."`
	Root   string `type:"path" placeholder:"DIR" help:"Remove below DIR instead of /, and stop nothing."`
	DryRun bool   `help:"Print what would be removed and run, and do nothing."`
}

// Help returns examples.
func (uninstallCmd) Help() string {
	return `Shuts all VMs down, stops both services and removes what the installation has brought: the host is as it was. VMs, images and kernels stay in /var/lib/banger, unless --purge is given.

    sudo banger system uninstall`
}

// Run uninstalls.
func (c uninstallCmd) Run(ctx context.Context, a *app) error {
	if os.Geteuid() != 0 && c.Root == "" && !c.DryRun {
		return &usageError{message: "only root can uninstall", hint: `say "sudo banger system uninstall"`}
	}
	return refused(install.Uninstall(ctx, install.Options{Root: c.Root, DryRun: c.DryRun, Out: a.err}, c.Purge))
}

// restartSystemCmd is `banger system restart`.
type restartSystemCmd struct{}

// Help returns examples.
func (restartSystemCmd) Help() string {
	return `Restarts both services and writes the host's network rules anew. VMs, and the commands that run in them, do not notice.

    sudo banger system restart`
}

// Run restarts.
func (restartSystemCmd) Run(ctx context.Context, a *app) error {
	if os.Geteuid() != 0 {
		return &usageError{message: "only root can restart the services", hint: `say "sudo banger system restart"`}
	}
	if _, err := layout.Load(layout.Metadata); errors.Is(err, fs.ErrNotExist) {
		return withHint(errors.New("restart services: banger is not installed on this host"), `"banger system install" does that; private daemons come and go by themselves`)
	}
	return install.Restart(ctx, install.Options{Out: a.err, Answer: a.answers})
}

// isInstalled reports whether the services of this host are systemd's to start.
func isInstalled() bool {
	_, err := os.Lstat(layout.Metadata)
	return err == nil
}
