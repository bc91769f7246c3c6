package cli

import (
	"context"
	"os"
	"path/filepath"

	"banger/install/doctor"
	"banger/personas/cli/bringup"
)

// doctorCmd is `banger doctor`.
type doctorCmd struct{}

// Help returns examples.
func (doctorCmd) Help() string {
	return `Only reads, and starts nothing. Each line that is not ok says what to do. The exit code is 1 if a check has failed.

    banger doctor
    banger doctor --output json | jq '.[] | select(.status != "ok")'`
}

// Run prints the checks.
func (doctorCmd) Run(ctx context.Context, a *app) error {
	host := a.config.Host
	if host.StateDir == "" {
		host.StateDir = a.stateDir(ctx)
	}
	lines := doctor.Run(ctx, doctor.Checks(host))
	if err := a.printChecks(lines); err != nil {
		return err
	}
	if code := doctor.ExitCode(lines); code != 0 {
		return &exitStatus{code: code}
	}
	return nil
}

// stateDir returns where the state lives: a daemon that runs knows, else it is
// where one would be started.
func (a *app) stateDir(ctx context.Context) string {
	ctx, cancel := context.WithTimeout(ctx, quickTimeout)
	defer cancel()
	if v, err := a.client().Version(ctx); err == nil && v.State != "" {
		return v.State
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
