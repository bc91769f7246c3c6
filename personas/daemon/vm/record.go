// Package vm is one VM's life, from reserve to release: where Firecracker's
// API, the privileged operations and the store meet.
package vm

import (
	"fmt"
	"time"

	"banger/ops"
	"banger/personas/api"
	"banger/personas/daemon/filesync"
	"banger/store"
)

// Record is what is on disk of a VM. It is written before anything of the VM
// exists, and tells a daemon that starts what has to be finished or undone.
type Record struct {
	ID     string     `json:"id"`
	Name   string     `json:"name"`
	State  api.State  `json:"state"`
	Reason string     `json:"reason,omitempty"`
	Spec   api.VMSpec `json:"spec"` // with every default filled in

	Image  Image  `json:"image"`
	Kernel Kernel `json:"kernel"`

	VMM      api.VMM     `json:"vmm"`
	Emulated bool        `json:"emulated"`
	Backend  api.Backend `json:"backend"`

	// Lease is what the helper holds for the VM. Its handle is empty until then.
	Lease ops.VMReserveReply `json:"lease"`

	HostKey HostKey `json:"host_key,omitzero"`

	// Sync are the files of the owner's home that the VM gets at its first start.
	Sync []filesync.Entry `json:"file_sync,omitempty"`

	CreatedAt time.Time `json:"created_at"`
	StartedAt time.Time `json:"started_at,omitzero"`
	PID       int       `json:"pid,omitempty"`
}

// HostKey is the key of a VM's sshd: the private half in OpenSSH's PEM, the public
// one as in known_hosts.
type HostKey struct {
	Private string `json:"private"`
	Public  string `json:"public"`
}

// Image is what a VM needs to know of the image that it was made from.
type Image struct {
	Name    string     `json:"name"`
	Digest  string     `json:"digest"`
	Path    string     `json:"path"` // of the ext4 file
	Bytes   int64      `json:"bytes"`
	Seal    store.Seal `json:"seal"` // of the file
	Env     []string   `json:"env,omitempty"`
	User    string     `json:"user,omitempty"`
	WorkDir string     `json:"work_dir,omitempty"`
}

// Kernel is what a VM needs to know of its kernel.
type Kernel struct {
	Name   string `json:"name"`
	Digest string `json:"digest"`
}

// transitions are the steps that a VM's state can take; see [api.State].
var transitions = map[api.State][]api.State{
	api.Creating: {api.Starting, api.Stopped, api.Deleting},
	api.Starting: {api.Running, api.Stopping, api.Stopped, api.Deleting},
	api.Running:  {api.Stopping, api.Stopped, api.Deleting},
	api.Stopping: {api.Stopped, api.Stopping, api.Deleting},
	api.Stopped:  {api.Starting, api.Stopping, api.Deleting},
	api.Deleting: {api.Deleting},
}

// transition takes r to the state to, or tells why that cannot be.
func (r *Record) transition(to api.State, reason string) error {
	for _, next := range transitions[r.State] {
		if next == to {
			r.State, r.Reason = to, reason
			return nil
		}
	}
	return &api.Error{Code: api.CodeConflict, Message: fmt.Sprintf("VM %s is %s", r.Name, r.State)}
}

// check reports why r cannot be the record with this id.
func (r *Record) check(id string) error {
	switch {
	case r.ID != id:
		return fmt.Errorf("it says that its id is %q", r.ID)
	case transitions[r.State] == nil:
		return fmt.Errorf("it has the state %q", r.State)
	}
	return api.CheckName(r.Name)
}

// view is what a client is told.
func (r *Record) view(disk string) api.VM {
	address := r.Lease.Address
	if r.Spec.Net == api.NetNone {
		address = ""
	}
	return api.VM{
		ID: r.ID, Name: r.Name, State: r.State, Reason: r.Reason, Spec: r.Spec,
		Image: r.Image.Digest, Kernel: r.Kernel.Digest,
		VMM: r.VMM, Emulated: r.Emulated, Backend: r.Backend, Disk: disk,
		Address: address, MAC: r.Lease.MAC, PID: r.PID, HostKey: r.HostKey.Public,
		CreatedAt: r.CreatedAt, StartedAt: r.StartedAt,
	}
}
