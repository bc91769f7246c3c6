package daemon

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/user"
	"strings"

	"banger/personas/api"
	"banger/personas/daemon/config"
	"banger/personas/daemon/filesync"
)

// ownHome is the home of the user that the daemon runs as. Its environment comes
// from who has started it: systemd, or root's half of banger.
func ownHome() (string, error) {
	if home := os.Getenv("HOME"); strings.HasPrefix(home, "/") {
		return home, nil
	}
	u, err := user.Current()
	if err != nil || !strings.HasPrefix(u.HomeDir, "/") {
		return "", fmt.Errorf("find home of user %d: %v", os.Getuid(), err)
	}
	return u.HomeDir, nil
}

// settle takes the owner's home, and looks at what is configured there: what is
// wrong with it shall be in the log from the start.
func (d *Daemon) settle() (err error) {
	if d.home, err = ownHome(); err != nil {
		return err
	}
	d.vms.Home = d.home
	_, _, err = d.configured()
	return err
}

// configured reads what the owner has configured. A file that is wrong is told by
// whatever needs it, and by nothing else.
func (d *Daemon) configured() (c config.Config, found bool, err error) {
	if d.home == "" {
		return c, false, nil
	}
	c, found, err = config.Load(config.Path(d.home))
	var wrong config.Errors
	if errors.As(err, &wrong) {
		hint := wrong.Hint()
		if hint == "" {
			hint = `mend the file ("banger config edit"); no VM is made until then`
		}
		return c, found, &api.Error{Code: api.CodeConflict, Message: wrong.Error(), HintText: hint}
	}
	return c, found, err
}

// settings tells what a VM gets that asks for nothing.
func (d *Daemon) settings(w http.ResponseWriter, _ *http.Request) error {
	answer := api.Settings{Path: config.Path(d.home)}
	c, found, err := d.configured()
	answer.Found = found
	if err != nil && !errors.As(err, &answer.Error) {
		return err
	}
	if err != nil {
		return writeJSON(w, answer)
	}
	answer.Values = c.Settings(config.ThisHost())
	for i := range answer.Values {
		d.fromCatalogue(&answer.Values[i])
	}
	for _, e := range c.Sync {
		answer.FileSync = append(answer.FileSync, api.FileSync{Host: "~/" + e.Host, Guest: "~/" + e.Guest, Mode: fmt.Sprintf("%04o", e.Mode)})
	}
	return writeJSON(w, answer)
}

// fromCatalogue fills in what the file leaves to the catalogues. Where they have
// no default either, there is no value.
func (d *Daemon) fromCatalogue(s *api.Setting) {
	if s.Source != "" {
		return
	}
	s.Source = "catalogue"
	switch s.Key {
	case "image":
		if img, unpin, err := d.images.Pin(""); err == nil {
			s.Value = img.Name
			unpin()
		}
	case "kernel":
		if k, unpin, err := d.kernels.Pin(""); err == nil {
			s.Value = k.Name
			unpin()
		}
	}
}

// planned is a spec that the configuration has completed.
type planned struct {
	api.VMSpec
	conf config.Config
}

// complete fills in what the owner has configured, and looks whether the host has the
// memory and the files that the VM is to get.
func (d *Daemon) complete(asked api.VMSpec) (planned, error) {
	p := planned{VMSpec: asked}
	var err error
	if p.conf, _, err = d.configured(); err != nil {
		return p, err
	}
	host := config.ThisHost()
	p.conf.Fill(&p.VMSpec, host)
	if host.MemMiB > 0 && p.MemMiB > host.MemMiB {
		err := &api.Error{Code: api.CodeUsage, Message: fmt.Sprintf("memory of %d MiB: this host has %d", p.MemMiB, host.MemMiB), HintText: "ask for less --memory"}
		return p, p.blame("memory", asked.MemMiB != 0, err)
	}
	if _, _, err := filesync.Read(d.home, p.conf.Sync); err != nil {
		return p, &api.Error{Code: api.CodeConflict, Message: err.Error(), HintText: "entries of file_sync are in " + config.Path(d.home)}
	}
	return p, nil
}

// blame says in an error about the value of a key that it is the file's, where the
// user has not asked for one.
func (p *planned) blame(key string, asked bool, err error) error {
	source := p.conf.Source(key)
	var known *api.Error
	if err == nil || asked || source == "" || !errors.As(err, &known) {
		return err
	}
	blamed := *known
	blamed.Message = fmt.Sprintf("%s: %s", source, known.Message)
	return &blamed
}
