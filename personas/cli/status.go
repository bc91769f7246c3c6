package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strconv"

	"banger/install"
	"banger/install/layout"
	"banger/personas"
	"banger/personas/api"
)

// statusCmd is `banger system status`.
type statusCmd struct{}

// Help returns examples.
func (statusCmd) Help() string {
	return `Nothing is started or changed. The exit code is 125 if a service does not answer that should: without an installation, both come and go by themselves.

    banger system status
    banger system status --output json | jq .daemon`
}

// systemStatus is what `banger system status` prints as JSON.
type systemStatus struct {
	Installed bool           `json:"installed"`
	Record    *layout.Record `json:"record,omitempty"`
	Units     []install.Unit `json:"units,omitempty"`
	Socket    string         `json:"socket"`
	// Services is nil if bangerd does not answer; Error says why.
	Services *api.Status `json:"services"`
	Error    string      `json:"error,omitempty"`
}

// Run prints the status.
func (statusCmd) Run(ctx context.Context, a *app) error {
	ctx, cancel := context.WithTimeout(ctx, quickTimeout)
	defer cancel()
	s := systemStatus{Socket: a.socket()}
	record, err := layout.Load(layout.Metadata)
	switch {
	case err == nil:
		s.Installed, s.Record = true, &record
		if s.Units, err = install.Units(ctx); err != nil {
			return err
		}
	case !errors.Is(err, fs.ErrNotExist):
		return err
	}
	services, err := a.client().Status(ctx)
	if err == nil {
		s.Services = &services
	} else {
		s.Error = err.Error()
	}
	if a.json {
		err = a.printJSON(s)
	} else {
		err = a.printFields(s.fields())
	}
	if err != nil {
		return err
	}
	return s.verdict()
}

// verdict is an error unless everything answers that should. Private daemons need
// not run.
func (s *systemStatus) verdict() error {
	const hint = `"banger doctor" says more; "sudo banger system restart" starts both anew`
	switch {
	case s.Services == nil && s.Installed:
		return withHint(fmt.Errorf("ask bangerd: %s", s.Error), hint)
	case s.Services != nil && s.Services.Helper == nil:
		return withHint(fmt.Errorf("ask banger-helper: %s", s.Services.Error), hint)
	}
	return nil
}

// fields are the lines of the table.
func (s *systemStatus) fields() [][2]string {
	version, _, _ := personas.BuildInfo()
	f := [][2]string{{"banger", version}}
	add := func(name, value string) { f = append(f, [2]string{name, value}) }
	if r := s.Record; r != nil {
		add("installed", fmt.Sprintf("%s below %s, at %s", r.Version, r.Prefix, r.InstalledAt.Format("2006-01-02 15:04:05 MST")))
		add("owner", fmt.Sprintf("%s (uid %d)", r.Owner.Name, r.Owner.UID))
	} else {
		add("installed", "no")
	}
	for _, u := range s.Units {
		add(u.Name, u.Active)
	}
	add("socket", s.Socket)
	v := s.Services
	if v == nil {
		add("bangerd", "does not answer")
		return f
	}
	add("bangerd", fmt.Sprintf("version %s, pid %d, uid %d", v.Daemon.Version, v.Daemon.PID, v.Daemon.UID))
	add("state", v.Daemon.State)
	add("disk backend", v.DiskBackend)
	add("VMs", strconv.Itoa(v.VMs)+", running "+strconv.Itoa(v.Running))
	h := v.Helper
	if h == nil {
		add("banger-helper", "does not answer")
		return f
	}
	add("banger-helper", fmt.Sprintf("version %s, pid %d", h.Version, h.PID))
	add("VMM", string(v.VMM))
	add("KVM", h.KVM)
	add("network", h.Network+", gateway "+h.Gateway)
	return f
}
