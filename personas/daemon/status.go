package daemon

import (
	"net/http"
	"os"

	"banger/ops"
	"banger/personas"
	"banger/personas/api"
	storedisk "banger/store/disk"
)

func (d *Daemon) version(w http.ResponseWriter, _ *http.Request) error {
	return writeJSON(w, d.self())
}

func (d *Daemon) self() api.Version {
	v, commit, built := personas.BuildInfo()
	return api.Version{Version: v, Commit: commit, Built: built, PID: os.Getpid(), UID: os.Getuid(), State: d.store.Dir}
}

// status answers even if the helper does not: then it says so.
func (d *Daemon) status(w http.ResponseWriter, r *http.Request) error {
	s := api.Status{
		Daemon: d.self(), VMs: len(d.vms.List()), Running: d.vms.Running(),
	}
	hello, _, err := ops.Hello.Call(r.Context(), d.helper, ops.None{})
	s.DiskBackend = string(storedisk.Choose(d.backends(hello, 0)))
	if err != nil {
		s.Error = err.Error()
		return writeJSON(w, s)
	}
	s.Helper = &api.HelperStatus{
		Version: hello.Version, PID: hello.PID, Network: hello.Prefix, Gateway: hello.Gateway,
		KVM: hello.KVM, Firecracker: hello.Firecracker,
	}
	if s.VMM, _, err = chooseVMM(hello, api.VMMAuto); err != nil {
		return err
	}
	return writeJSON(w, s)
}
