package cli

import (
	"context"
	"runtime"
	"strings"

	"banger/personas"
	"banger/personas/api"
)

// versionCmd is `banger version`.
type versionCmd struct{}

// Help returns examples.
func (versionCmd) Help() string {
	return `The daemon's version is printed too, if one runs.

    banger version --output json | jq -r .version`
}

// versions is what `banger version` prints as JSON.
type versions struct {
	Version string       `json:"version"`
	Commit  string       `json:"commit,omitempty"`
	Built   string       `json:"built,omitempty"`
	Go      string       `json:"go"`
	Daemon  *api.Version `json:"daemon,omitempty"`
}

// Run prints the versions.
func (versionCmd) Run(ctx context.Context, a *app) error {
	v := versions{Go: runtime.Version()}
	v.Version, v.Commit, v.Built = personas.BuildInfo()
	ctx, cancel := context.WithTimeout(ctx, quickTimeout)
	defer cancel()
	if d, err := a.client().Version(ctx); err == nil {
		v.Daemon = &d
	}
	if a.json {
		return a.printJSON(v)
	}
	lines := []string{versionLine("banger", v.Version, v.Commit, v.Built)}
	if d := v.Daemon; d != nil {
		lines = append(lines, versionLine("bangerd", d.Version, d.Commit, d.Built))
	}
	return a.printNames(lines)
}

func versionLine(name, version, commit, built string) string {
	line := name + " " + version
	if detail := strings.TrimSpace(commit[:min(12, len(commit))] + " " + built); detail != "" {
		line += " (" + detail + ")"
	}
	return line
}
