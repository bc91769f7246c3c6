// Package install puts banger on a host with systemd, looks after it there, and
// takes it away again.
//
// Everything that it writes is in one table, files; package layout says where.
// It is the administrator's tool: it runs as root, once, and starts systemctl
// and its like. Nothing of it is on the way of a VM.
package install

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"os"
	"os/user"
	"path/filepath"
	"time"

	"banger/install/layout"
)

// Options say what to install, and for whom.
type Options struct {
	// Owner is the name of the user whose VMs these are.
	Owner string
	// Prefix is where the binary goes: Prefix/bin. Empty is that of an earlier
	// installation, else /usr/local.
	Prefix string
	// Root is the directory that stands for "/", for making packages: files are
	// written, and nothing is started, asked or checked on this host. Empty is the
	// host itself.
	Root string
	// DryRun prints every file and command, and does nothing.
	DryRun bool
	// Binary is the program to install. Empty is the running one.
	Binary string
	// Firecracker is the path of a binary to copy, or empty.
	Firecracker string
	// Jailer is the path of Firecracker's jailer to copy, or empty.
	Jailer string
	// Build is the version of the binary.
	Build Build
	// AllowDowngrade lets an older binary take the place of a newer one, whose
	// record it may not even be able to read.
	AllowDowngrade bool
	// UIDs are the users of VMs.
	UIDs layout.UIDs
	// PlanNetwork chooses the address plan for a host that has none yet.
	PlanNetwork func(ctx context.Context) (netip.Prefix, error)
	// Answer returns once both services have answered, or with an error.
	Answer func(ctx context.Context) error
	// Out is told what is done, a line each.
	Out io.Writer
	// Run runs a program. Nil really does.
	Run func(ctx context.Context, argv ...string) error

	lookup func(name string) (*user.User, error) // nil is user.Lookup
}

// Build is what a binary says of itself.
type Build struct{ Version, Commit, Built string }

// ErrRefused is why nothing was begun: what was asked for is not safe or makes no
// sense on this host. Nothing has been changed.
var ErrRefused = errors.New("refused")

// Install installs banger, or upgrades what is installed: VMs run on. What it
// refuses, it refuses before it changes anything.
func Install(ctx context.Context, o Options) error {
	h := o.host()
	record, err := o.settle(ctx, h)
	if err != nil {
		return err
	}
	remove, err := o.inspectVMM(ctx, &record)
	if err != nil {
		return err
	}
	defer remove()
	text, err := record.Encode()
	if err != nil {
		return fmt.Errorf("%w: %w", ErrRefused, err)
	}
	if err := h.sweep(record.Prefix); err != nil {
		return err
	}
	begun, err := h.begin(record)
	if err != nil {
		return err
	}
	if err := h.copyFile(o.binary(), layout.Binary(record.Prefix), 0o755); err != nil {
		return err
	}
	for _, link := range layout.Links(record.Prefix) {
		if err := h.symlink("banger", link); err != nil {
			return err
		}
	}
	if err := h.copyVMM(&o); err != nil {
		return err
	}
	if !bytes.Equal(text, begun) {
		if err := h.writeFile(layout.Metadata, text, 0o644); err != nil {
			return err
		}
	}
	if err := h.writeFiles(&record); err != nil {
		return err
	}
	if o.Root != "" {
		return nil
	}
	if err := h.bringUp(ctx); err != nil {
		return err
	}
	if o.DryRun {
		return nil
	}
	return o.await(ctx)
}

// begin writes the record of a first installation before anything else of it is there:
// whatever becomes of this process, the next one knows whose all of that is. What runs
// is another matter: on an upgrade the record comes after the binary that reads it. The
// programs are not copied yet, and not in it. It returns what it has written.
func (h *host) begin(r layout.Record) ([]byte, error) {
	if _, err := os.Lstat(h.path(layout.Metadata)); !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	r.Firecracker, r.Jailer = layout.Program{}, layout.Program{}
	text, err := r.Encode()
	if err != nil {
		return nil, err
	}
	return text, h.writeFile(layout.Metadata, text, 0o644)
}

// Restart restarts both services, after the network was put in order, and returns
// when both answer. Of the options it takes Answer, Out and Run.
func Restart(ctx context.Context, o Options) error {
	h := o.host()
	if err := h.commands(ctx, restart); err != nil {
		return err
	}
	return o.await(ctx)
}

func (o *Options) await(ctx context.Context) error {
	fmt.Fprintln(o.Out, "wait for both services to answer")
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	if err := o.Answer(ctx); err != nil {
		return fmt.Errorf("wait for the services: %w (see \"journalctl -u bangerd -u banger-helper -u banger-net\")", err)
	}
	return nil
}

const answerTimeout = 30 * time.Second

// settle checks everything and returns what will be recorded.
func (o *Options) settle(ctx context.Context, h *host) (layout.Record, error) {
	old, err := h.installed(o.Owner != "", o.AllowDowngrade)
	if err != nil {
		return old, err
	}
	if err := o.checkAge(&old); err != nil {
		return old, err
	}
	r := layout.Record{
		InstalledAt: time.Now().UTC().Truncate(time.Second),
		Version:     o.Build.Version, Commit: o.Build.Commit, Built: o.Build.Built,
		Prefix: first(o.Prefix, old.Prefix, layout.DefaultPrefix), UIDs: o.UIDs,
		Network: old.Network, Firecracker: old.Firecracker, Jailer: old.Jailer,
	}
	if !filepath.IsAbs(r.Prefix) || filepath.Clean(r.Prefix) != r.Prefix {
		return r, fmt.Errorf("%w: prefix %q is not a clean absolute path", ErrRefused, r.Prefix)
	}
	if old.Layout != 0 && old.Prefix != r.Prefix {
		return r, fmt.Errorf("%w: banger is installed below %s already: uninstall it first, or leave --prefix out", ErrRefused, old.Prefix)
	}
	if r.Owner, err = o.findOwner(h, old.Owner); err != nil {
		return r, err
	}
	if err := h.checkHost(o, &r, old.Layout != 0); err != nil {
		return r, err
	}
	if !r.Network.IsValid() {
		if r.Network, err = o.PlanNetwork(ctx); err != nil {
			return r, fmt.Errorf("choose a network: %w", err)
		}
	}
	return r, nil
}

func (o *Options) binary() string {
	if o.Binary != "" {
		return o.Binary
	}
	return "/proc/self/exe"
}

// installed returns the record of an earlier installation, zero if there is none.
// One that cannot be read counts as none for who knows what it should say: root's
// own file it must be, and not a newer banger's, unless older is to replace that.
func (h *host) installed(known, older bool) (layout.Record, error) {
	r, err := layout.Load(h.path(layout.Metadata))
	switch {
	case err == nil:
		return r, nil
	case errors.Is(err, fs.ErrNotExist):
		return layout.Record{}, nil
	case errors.Is(err, layout.ErrNewer) && !older:
		return layout.Record{}, fmt.Errorf("%w: %w, or go back with \"sudo banger system install --owner USER --allow-downgrade\"", ErrRefused, err)
	case known && !errors.Is(err, layout.ErrForeign):
		fmt.Fprintf(h.out, "%s cannot be read (%v), and is made anew\n", layout.Metadata, err)
		return layout.Record{}, nil
	}
	return layout.Record{}, fmt.Errorf("%w: %w: \"sudo banger system install --owner USER\" makes it anew", ErrRefused, err)
}

// bringUp makes systemd run what the files say. Services that run are restarted,
// VMs are not: their units stay what they were when they started.
func (h *host) bringUp(ctx context.Context) error {
	commands := [][]string{
		{"systemctl", "daemon-reload"},
		{"systemctl", "enable", "--now", layout.HelperMount},
		{"systemd-tmpfiles", "--create", TmpfilesConf},
		{"systemctl", "restart", "--no-block", "systemd-modules-load.service"},
		{"udevadm", "control", "--reload"},
		{"systemctl", "enable", layout.NetService, layout.HelperSocket, layout.DaemonSocket, layout.HelperService, layout.DaemonService},
	}
	if h.sockets { // what a socket is, it is from its start on
		commands = append(commands,
			[]string{"systemctl", "stop", layout.DaemonSocket, layout.DaemonService, layout.HelperSocket, layout.HelperService})
	}
	return h.commands(ctx, append(commands, restart...))
}

// restart is how the services become new. The sockets stay: who connects
// meanwhile waits, and is answered by the new service.
var restart = [][]string{
	{"systemctl", "reload-or-restart", layout.NetService},
	{"systemctl", "restart", layout.NetWatch},
	{"systemctl", "start", layout.HelperSocket, layout.DaemonSocket},
	{"systemctl", "restart", layout.HelperService, layout.DaemonService},
}

func first(values ...string) string {
	for _, v := range values {
		if v != "" {
			return v
		}
	}
	return ""
}

// sameBytes reports whether the file at path has this content and mode.
func sameBytes(path string, data []byte, mode fs.FileMode) bool {
	info, err := os.Lstat(path)
	if err != nil || !info.Mode().IsRegular() || info.Mode().Perm() != mode || info.Size() != int64(len(data)) {
		return false
	}
	got, err := os.ReadFile(path)
	return err == nil && string(got) == string(data)
}
