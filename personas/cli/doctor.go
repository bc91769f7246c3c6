package cli

import (
	"cmp"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"banger/install"
	"banger/install/doctor"
	"banger/install/layout"
	"banger/personas/cli/bringup"
)

// doctorCmd is `banger doctor`.
type doctorCmd struct {
	Fix bool `help:"Put an installation in order, saying what is done: files, units, network. VMs run on. Needs root."`
}

// Help returns examples.
func (doctorCmd) Help() string {
	return `Only reads, and starts nothing, unless --fix is given. Each line that is not ok says what to do. The exit code is 1 if a check has failed.

    banger doctor
    sudo banger doctor --fix
    banger doctor --output json | jq '.[] | select(.status != "ok")'`
}

// Run prints the checks.
func (c doctorCmd) Run(ctx context.Context, a *app) error {
	record, err := layout.Load(layout.Metadata)
	installed := err == nil
	broken := err != nil && !errors.Is(err, fs.ErrNotExist)
	if c.Fix {
		switch {
		case broken:
			return withHint(err, `"sudo banger system install --owner USER" makes it anew`)
		case !installed:
			return &usageError{message: "there is no installation to put in order", hint: `without --fix, each line says what to do`}
		}
		if err := (installCmd{}).Run(ctx, a); err != nil {
			return err
		}
	}
	host := a.config.Host
	if host.StateDir == "" {
		host.StateDir = a.stateDir(ctx, installed || broken)
	}
	if installed {
		host.Firecracker = cmp.Or(record.Firecracker.Path, layout.Firecracker)
	}
	checks := doctor.Checks(host)
	if installed {
		checks = append(checks, install.Checks(record, build(), a.versions)...)
	}
	if broken {
		checks = append(checks, doctor.Check{Name: "installation", Run: func(context.Context) doctor.Result {
			return doctor.Result{Status: doctor.Fail, Detail: err.Error(), Hint: `"sudo banger system install --owner USER" makes it anew`}
		}})
	}
	lines := doctor.Run(ctx, checks)
	if err := a.printChecks(lines); err != nil {
		return err
	}
	if code := doctor.ExitCode(lines); code != 0 {
		return &exitStatus{code: code}
	}
	return nil
}

// versions asks the services that run which they are, by name.
func (a *app) versions(ctx context.Context) (map[string]string, error) {
	ctx, cancel := context.WithTimeout(ctx, quickTimeout)
	defer cancel()
	s, err := a.client().Status(ctx)
	if err != nil {
		return nil, err
	}
	if s.Helper == nil {
		return nil, errors.New(s.Error)
	}
	return map[string]string{"bangerd": s.Daemon.Version, "banger-helper": s.Helper.Version}, nil
}

// stateDir returns where the state lives: a daemon that runs knows, else it is
// where systemd, or whoever calls, would start one.
func (a *app) stateDir(ctx context.Context, installed bool) string {
	ctx, cancel := context.WithTimeout(ctx, quickTimeout)
	defer cancel()
	if v, err := a.client().Version(ctx); err == nil && v.State != "" {
		return v.State
	}
	if installed {
		return layout.OwnerState
	}
	if os.Geteuid() == 0 {
		// Without an owner there is no directory yet; the check says so.
		owner, _ := bringup.InvokingOwner()
		return owner.StateDir
	}
	return filepath.Join(os.Getenv("HOME"), bringup.StateInHome)
}

func (a *app) printChecks(lines []doctor.Line) error {
	if a.json {
		return a.printJSON(list(lines))
	}
	rows := make([][]string, 0, len(lines))
	for _, l := range lines {
		rows = append(rows, []string{string(l.Status), l.Name, l.Detail})
		if l.Hint != "" {
			rows = append(rows, []string{"", "", "-> " + l.Hint})
		}
	}
	return a.printTable([]string{"STATUS", "CHECK", "FOUND"}, rows)
}
