package install

import (
	"context"
	"errors"
	"fmt"

	"banger/install/layout"
)

// Uninstall stops everything and removes what Install has written: the host is as
// it was. The owner's VMs and images stay, unless purge is set. Of the options it
// takes Root, DryRun, Out and Run.
func Uninstall(ctx context.Context, o Options, purge bool) error {
	h := o.host()
	r, err := h.installed()
	if err != nil {
		return err
	}
	if r.Layout == 0 {
		r.Prefix = first(o.Prefix, layout.DefaultPrefix) // half an installation, or none
	}
	if err := h.checkForeign(&r); err != nil {
		return err
	}
	if o.Root == "" {
		// Of half an installation units may be missing, which systemctl calls an error.
		if err := h.takeDown(ctx); err != nil && r.Layout != 0 {
			return err
		}
	}
	var errs []error
	for _, f := range files {
		errs = append(errs, h.remove(f.path))
	}
	for _, link := range layout.Links(r.Prefix) {
		errs = append(errs, h.remove(link))
	}
	errs = append(errs,
		h.remove(layout.Binary(r.Prefix)),
		h.removeTree(layout.HelperState),
		h.remove(layout.Metadata),
	)
	if purge {
		errs = append(errs, h.removeTree(layout.OwnerState), h.removeTree(layout.Cache))
	}
	h.removeEmpty(layout.ConfigDir)
	h.removeEmpty(layout.Cache)
	if o.Root == "" {
		errs = append(errs, h.command(ctx, "systemctl", "daemon-reload"), h.command(ctx, "udevadm", "control", "--reload"))
	}
	return errors.Join(errs...)
}

// takeDown ends all that runs. The daemons end first, so that nobody starts a VM
// while VMs are stopped.
func (h *host) takeDown(ctx context.Context) error {
	for _, argv := range [][]string{
		{"systemctl", "disable", "--now", layout.DaemonSocket, layout.DaemonService, layout.HelperSocket, layout.HelperService},
		{"systemctl", "stop", layout.VMUnit("*")},
		{"systemctl", "stop", layout.VMSlice},
		{"systemctl", "disable", "--now", layout.NetService},
	} {
		if err := h.command(ctx, argv...); err != nil {
			return fmt.Errorf("stop banger: %w", err)
		}
	}
	return errors.Join(h.removeTree(layout.OwnerRun), h.removeTree(layout.HelperRun))
}
