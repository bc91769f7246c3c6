package install

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"banger/install/layout"
)

// Uninstall stops everything and removes what Install has written: the host is as
// it was. The owner's VMs and images stay, unless purge is set. Of the options it
// takes Root, DryRun, Out and Run.
func Uninstall(ctx context.Context, o Options, purge bool) error {
	h := o.host()
	r, err := h.installed(true, false)
	if err != nil {
		return err
	}
	known := r.Layout != 0
	if !known {
		r.Prefix = layout.DefaultPrefix // an installation without a record, or none
		if _, err := os.Lstat(h.path(layout.OwnerState)); !h.anything(r.Prefix) && (!purge || err != nil) {
			return fmt.Errorf("%w: banger is not installed here", ErrRefused)
		}
	}
	if err := h.checkForeign(&r); err != nil {
		return err
	}
	if o.Root == "" {
		if err := h.takeDown(ctx, known && h.complete()); err != nil {
			return err
		}
	}
	errs := []error{h.sweep(r.Prefix)}
	for _, f := range files {
		errs = append(errs, h.remove(f.path))
	}
	// The links, and then the record, say whose the binary is: they go after it.
	if h.owns(r.Prefix, known) {
		errs = append(errs, h.remove(layout.Binary(r.Prefix)))
	}
	for _, link := range layout.Links(r.Prefix) {
		errs = append(errs, h.remove(link))
	}
	errs = append(errs,
		h.removeTree(layout.HelperState),
		h.remove(layout.Metadata),
	)
	if purge {
		errs = append(errs, h.removeTree(layout.OwnerState), h.removeTree(layout.Cache))
	}
	if r.Prefix != layout.DefaultPrefix {
		h.removeEmpty(filepath.Dir(layout.Binary(r.Prefix)))
		if filepath.Dir(r.Prefix) != "/" { // as /opt/banger: it is banger's own, as a rule
			h.removeEmpty(r.Prefix)
		}
	}
	h.removeEmpty(layout.ConfigDir)
	h.removeEmpty(layout.Cache)
	if o.Root == "" {
		errs = append(errs, h.command(ctx, "systemctl", "daemon-reload"), h.command(ctx, "udevadm", "control", "--reload"))
	}
	return errors.Join(errs...)
}

// anything reports whether a file of an installation is there.
func (h *host) anything(prefix string) bool {
	if len(h.leftovers(prefix)) > 0 {
		return true
	}
	for _, f := range files {
		if _, err := os.Lstat(h.path(f.path)); err == nil {
			return true
		}
	}
	_, err := os.Lstat(h.path(layout.Metadata))
	return err == nil
}

// complete reports whether all files of an installation are there.
func (h *host) complete() bool {
	for _, f := range files {
		if _, err := os.Lstat(h.path(f.path)); err != nil {
			return false
		}
	}
	return true
}

// takeDown ends all that runs. The daemons end first, so that nobody starts a VM
// while VMs are stopped. Of half an installation, units may be missing, which is
// no error then; to stop a unit takes no file of it, other than to disable one.
func (h *host) takeDown(ctx context.Context, whole bool) error {
	for _, argv := range [][]string{
		{"systemctl", "stop", layout.DaemonSocket, layout.DaemonService, layout.HelperSocket, layout.HelperService},
		{"systemctl", "stop", layout.VMUnit("*")},
		{"systemctl", "stop", layout.VMSlice},
		{"systemctl", "stop", layout.NetService},
		{"systemctl", "stop", layout.HelperMount},
		{"systemctl", "disable", layout.DaemonSocket, layout.DaemonService, layout.HelperSocket, layout.HelperService, layout.NetService, layout.HelperMount},
	} {
		if err := h.command(ctx, argv...); err != nil && whole {
			return fmt.Errorf("stop banger: %w", err)
		}
	}
	if _, err := os.Lstat(h.path(layout.NetNS)); err == nil && !h.dryRun {
		// A stop job is done also when what it ran has failed.
		return fmt.Errorf("stop banger: its network is still there (see \"journalctl -u %s\"); nothing was removed", layout.NetService)
	}
	// Limits of VMs whose end the helper has not seen.
	limits, err := filepath.Glob("/run/systemd/system.control/" + layout.VMUnit("*") + ".d")
	if err != nil {
		return err
	}
	for _, dir := range limits {
		if err := h.removeTree(dir); err != nil {
			return err
		}
	}
	return errors.Join(h.removeTree(layout.OwnerRun), h.removeTree(layout.HelperRun))
}
