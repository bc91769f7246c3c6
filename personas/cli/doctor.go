package cli

import (
	"context"
	"errors"
)

// doctorCmd is `banger doctor`.
type doctorCmd struct{}

// Help returns examples.
func (doctorCmd) Help() string {
	return `Only reads, and starts nothing. Each line that is not ok says what to do. The exit code is 1 if a check has failed.

    banger doctor
    banger doctor --output json | jq '.[] | select(.status != "ok")'`
}

// exitUnfit is the exit code of a doctor who has found that VMs cannot run.
const exitUnfit = 1

// Run prints the checks.
func (doctorCmd) Run(ctx context.Context, a *app) error {
	if a.config.Doctor == nil {
		return errors.New("run checks: this build has none")
	}
	checks := a.config.Doctor(ctx)
	if err := a.printChecks(checks); err != nil {
		return err
	}
	for _, c := range checks {
		if c.Status == "fail" {
			return &exitStatus{code: exitUnfit}
		}
	}
	return nil
}

func (a *app) printChecks(checks []Check) error {
	if a.json {
		return a.printJSON(list(checks))
	}
	rows := make([][]string, 0, len(checks))
	for _, c := range checks {
		rows = append(rows, []string{c.Status, c.Name, c.Detail})
		if c.Hint != "" {
			rows = append(rows, []string{"", "", "-> " + c.Hint})
		}
	}
	return a.printTable([]string{"STATUS", "CHECK", "FOUND"}, rows)
}
