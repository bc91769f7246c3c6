package vm

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"banger/ops"
	"banger/personas/api"
	"banger/store"
)

// Boot is what a VM boots: an open kernel file and initrd with their digests.
type Boot struct {
	Kernel, Initrd             string // paths of files that the daemon owns
	KernelSHA256, InitrdSHA256 string // in hex
	// Modules is the path of a read-only drive of the kernel's modules. Empty:
	// the kernel has none.
	Modules string
}

// Set is every VM of the daemon. Fill the exported fields, call Load, and stop
// with Close. It is safe for concurrent use.
type Set struct {
	Helper  *ops.Client
	Records *store.Records[Record]
	Log     *slog.Logger

	// BootFiles finds or makes what a kernel boots with under a VMM.
	BootFiles func(ctx context.Context, kernel Kernel, vmm api.VMM) (Boot, error)

	// Home is the owner's, which the files of a record's Sync are below.
	Home string

	// ClaimTime is how long a VM with AutoRemove may be without a holder when it
	// was created, or when the daemon starts. Zero means a minute.
	ClaimTime time.Duration

	// RetryTime is how long a VM that should be gone and could not be deleted is left
	// until that is tried again. Zero means ten seconds.
	RetryTime time.Duration

	// ConfigureTime is how long a VMM may take for its configuration and to
	// start. Zero means a minute.
	ConfigureTime time.Duration

	// SilentTime is how long an emulated guest may be silent before it is started
	// once more. Zero means a minute.
	SilentTime time.Duration

	// StoreTime is how often a snapshot's store is looked at while its VM runs.
	// Zero means five seconds.
	StoreTime time.Duration

	// open ends with Close, and with it all that works on VMs without a client.
	open context.Context
	shut context.CancelFunc

	// reconciling is held over the reconciliation with the helper, before which
	// no VM is worked on. It guards the fields that follow. Order: reconciling, then
	// VM.busy, then leasing, then mu, then VM.mu.
	reconciling chan struct{} // holds one token
	reconciled  bool
	unsettled   []*VM // of the records that were loaded

	// leasing is held, for reading, from asking for a lease until a VM has it, so
	// that it is taken for nobody's at no time.
	leasing sync.RWMutex

	// mu guards the fields that follow.
	mu      sync.Mutex
	vms     map[string]*VM          // by id
	names   map[string]*VM          // by name
	damaged map[string]store.Damage // by id
	tasks   sync.WaitGroup          // the watchers of running VMs, and of claims; what is cleared away

	// clearing is held, for reading, while what was deleted is cleared away.
	clearing sync.RWMutex
}

// VM is one VM. Its methods are those of [Set].
type VM struct {
	// busy holds one token while an operation works on the VM; whoever has it
	// may change the record and the machine.
	busy chan struct{}

	// mu guards the fields that follow, for those who only read.
	mu      sync.Mutex
	rec     Record
	machine *machine
	changed chan struct{}           // closed, and made anew, when rec or machine changes
	cancel  context.CancelCauseFunc // of the operation that is under way
	urgent  int                     // those who wait to seize the VM
	cause   error                   // of the last one of them
	holders int
	claim   bool // a holder is yet to come, and has some time left
}

func newVM(rec Record) *VM {
	return &VM{busy: make(chan struct{}, 1), rec: rec, changed: make(chan struct{})}
}

// record returns a copy of the record.
func (v *VM) record() Record {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.rec
}

// running returns the machine, or an error where there is none.
func (v *VM) running() (*machine, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	switch {
	case v.rec.State != api.Running:
		return nil, &api.Error{Code: api.CodeConflict, Message: fmt.Sprintf("VM %s is %s, not running", v.rec.Name, v.rec.State),
			HintText: "start it: banger vm start " + v.rec.Name}
	case v.machine == nil:
		return nil, &api.Error{Code: api.CodeConflict, Message: fmt.Sprintf("VM %s is recorded as running, but not connected", v.rec.Name),
			HintText: "\"banger vm kill " + v.rec.Name + "\" ends it, without asking its guest"}
	}
	return v.machine, nil
}

// change does what changes record or machine, and wakes those who wait for that.
func (v *VM) change(do func()) {
	v.mu.Lock()
	defer v.mu.Unlock()
	do()
	close(v.changed)
	v.changed = make(chan struct{})
}

func (v *VM) setMachine(m *machine) {
	v.change(func() { v.machine = m })
}

// update changes the record and writes it, as Records.Save or Records.Note does. The
// caller holds the token.
//
// What a power cut may not take back is saved: that a VM was made, before its maker is
// told so, and that it was started, before its guest could be asked what it has done
// with what it gets at its first start. All else is noted. A power cut ends every VM
// anyway, and takes one that was being made or deleted back to the same as the end of
// the daemon does: nobody was told of it yet.
func (s *Set) update(v *VM, write func(string, Record) error, change func(*Record) error) error {
	rec := v.record()
	if err := change(&rec); err != nil {
		return err
	}
	if err := write(rec.ID, rec); err != nil {
		return err
	}
	v.change(func() { v.rec = rec })
	return nil
}

// moveDown is update on a VM's way down, which a full disk must not bar: where the note
// fails, memory says what the world is, and the next daemon asks the helper.
func (s *Set) moveDown(v *VM, change func(*Record) error) error {
	return s.update(v, func(id string, rec Record) error {
		if err := s.Records.Note(id, rec); err != nil {
			s.Log.Warn("note what becomes of a VM, ignoring", "vm", rec.Name, "state", rec.State, "error", err)
		}
		return nil
	}, change)
}

// moveTo is the change to another state.
func moveTo(state api.State, reason string) func(*Record) error {
	return func(r *Record) error { return r.transition(state, reason) }
}

// add reserves id and name for rec, and writes it: from here on the VM exists.
func (s *Set) add(rec Record) (*VM, error) {
	s.mu.Lock()
	if rec.Name == "" {
		rec.Name = s.freeNameLocked()
	}
	if s.names[rec.Name] != nil {
		s.mu.Unlock()
		return nil, &api.Error{Code: api.CodeConflict, Message: fmt.Sprintf("VM %s exists already", rec.Name),
			HintText: "choose another --name, or delete it: banger vm delete " + rec.Name}
	}
	v := newVM(rec)
	v.busy <- struct{}{} // the creator's
	s.vms[rec.ID], s.names[rec.Name] = v, v
	s.mu.Unlock()
	if err := s.Records.Note(rec.ID, rec); err != nil {
		s.drop(v)
		v.release() // to whoever found it meanwhile
		return nil, errors.Join(err, s.Records.Delete(rec.ID))
	}
	return v, nil
}

// has reports whether v is still there.
func (s *Set) has(v *VM) bool {
	id := v.record().ID
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.vms[id] == v
}

// drop forgets v in memory.
func (s *Set) drop(v *VM) {
	s.mu.Lock()
	defer s.mu.Unlock()
	rec := v.record()
	delete(s.vms, rec.ID)
	if s.names[rec.Name] == v {
		delete(s.names, rec.Name)
	}
}

// freeNameLocked makes up a name that no VM has.
func (s *Set) freeNameLocked() string {
	for {
		name := "vm-" + randomHex(3)
		if s.names[name] == nil {
			return name
		}
	}
}

// find returns a VM by id, by name, or by the beginning of an id that is long
// enough to be meant as one. The id comes first: nobody's name is in its way.
func (s *Set) find(name string) (*VM, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if v := s.vms[name]; v != nil {
		return v, nil
	}
	if v := s.names[name]; v != nil {
		return v, nil
	}
	if len(name) >= 6 {
		var found []*VM
		for id, v := range s.vms {
			if strings.HasPrefix(id, name) {
				found = append(found, v)
			}
		}
		if len(found) == 1 {
			return found[0], nil
		}
	}
	if d, ok := s.damaged[name]; ok {
		return nil, &api.Error{Code: api.CodeConflict, Message: fmt.Sprintf("VM %s: %v", name, d.Err),
			HintText: fmt.Sprintf("mend %s and restart bangerd, or give the VM up: banger vm delete --force %s", d.Path, name)}
	}
	return nil, notFound(name)
}

// List tells of every VM, by name, those with a damaged record last.
func (s *Set) List() []api.VM {
	s.mu.Lock()
	vms := slices.Collect(maps.Values(s.vms))
	damaged := slices.Collect(maps.Values(s.damaged))
	s.mu.Unlock()
	views := make([]api.VM, len(vms), len(vms)+len(damaged))
	for i, v := range vms {
		views[i] = s.view(v)
	}
	slices.SortFunc(views, func(a, b api.VM) int { return strings.Compare(a.Name, b.Name) })
	slices.SortFunc(damaged, func(a, b store.Damage) int { return strings.Compare(a.ID, b.ID) })
	for _, d := range damaged {
		views = append(views, api.VM{ID: d.ID, Name: d.ID, State: api.Damaged, Reason: d.Err.Error()})
	}
	return views
}

// Show tells of one VM.
func (s *Set) Show(name string) (api.VM, error) {
	v, err := s.find(name)
	if err != nil {
		return api.VM{}, err
	}
	return s.view(v), nil
}

func (s *Set) view(v *VM) api.VM {
	v.mu.Lock()
	defer v.mu.Unlock()
	view := v.rec.view(s.ownDisk(&v.rec))
	if v.machine != nil {
		view.Reason = cmp.Or(v.machine.lost, view.Reason)
	}
	return view
}

// Lookup returns the address of the VM with this name, for the resolver. A VM
// without a network has none.
func (s *Set) Lookup(name string) (netip.Addr, bool) {
	s.mu.Lock()
	v := s.names[name]
	s.mu.Unlock()
	if v == nil {
		return netip.Addr{}, false
	}
	rec := v.record()
	addr, err := netip.ParseAddr(rec.Lease.Address)
	return addr, err == nil && rec.Spec.Net != api.NetNone
}

// Reverse returns the name of the VM with this address, for the resolver.
func (s *Set) Reverse(addr netip.Addr) (string, bool) {
	want := addr.String()
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, v := range s.vms {
		if rec := v.record(); rec.Lease.Address == want && rec.Spec.Net != api.NetNone {
			return rec.Name, true
		}
	}
	return "", false
}

// Uses reports which VM has the image or kernel with this name, or an empty
// string. One whose record is damaged may have any.
func (s *Set) Uses(kind, name string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	for id := range s.damaged {
		return id + ", maybe: its record is damaged"
	}
	for _, v := range s.vms {
		rec := v.record()
		if kind == "image" && rec.Image.Name == name || kind == "kernel" && rec.Kernel.Name == name {
			return rec.Name
		}
	}
	return ""
}

// Running counts the VMs that are not at rest.
func (s *Set) Running() int {
	n := 0
	for _, v := range s.List() {
		if v.State != api.Stopped && v.State != api.Damaged {
			n++
		}
	}
	return n
}

func randomHex(bytes int) string {
	b := make([]byte, bytes)
	rand.Read(b) // never fails: it ends the program instead
	return hex.EncodeToString(b)
}
