package helper

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"

	"banger/fc/jail"
	"banger/ops"
)

// maxVMs bounds the reservations of one owner.
const maxVMs = 256

// record is what outlives the helper of a reservation. It is written before the
// VM has anything on the host.
type record struct {
	Handle  string  `json:"handle"`
	ID      string  `json:"id"`
	Slot    int     `json:"slot"`
	Request string  `json:"request"` // that reserved it
	Start   string  `json:"start"`   // request that started it last
	Net     string  `json:"net"`     // policy of the last start
	Disks   []claim `json:"disks"`   // that the VMM has open

	Snapshot bool `json:"snapshot,omitempty"` // the first two are one
}

// check reports why r cannot be what reserve has written.
func (r *record) check() error {
	switch {
	case !isHex(r.Handle, 32):
		return errors.New("it has no handle")
	case !isHex(r.ID, 8):
		return fmt.Errorf("its id is %q", r.ID)
	case r.Slot < 0 || r.Slot >= maxVMs:
		return fmt.Errorf("its slot is %d", r.Slot)
	}
	return nil
}

func isHex(s string, digits int) bool {
	return len(s) == digits && strings.Trim(s, "0123456789abcdef") == ""
}

// reservation is one VM as the helper knows it.
//
//	reserved --VMStart--> running --VMStop, VMM exits--> reserved --VMRelease--> (gone)
type reservation struct {
	// busy holds one token for the length of an operation on this VM, and whoever
	// has it may change the fields that follow. Order: reservation.busy, then table.mu.
	busy chan struct{}
	rec  record
	gone bool // released while somebody waited for the token
	used bool // what a VMM has may be on the host: it was started and not yet cleared away

	// process is nil unless a VMM was started and not yet cleared away. Whoever
	// has the token writes it; those who only count do not wait for an operation.
	process atomic.Pointer[jail.Process]
	// unproven says that there is a jail of r whose VMM, which may run, could not be
	// adopted. It is written as process is.
	unproven atomic.Bool
}

func newReservation(rec record) *reservation {
	return &reservation{busy: make(chan struct{}, 1), rec: rec}
}

// acquire waits for the token of r. The caller gives it back with release.
func (r *reservation) acquire(ctx context.Context) error {
	select {
	case r.busy <- struct{}{}:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("wait for VM %s: %w", r.rec.ID, ctx.Err())
	}
}

func (r *reservation) release() { <-r.busy }

// with does act with the token of r.
func (r *reservation) with(ctx context.Context, act func() error) error {
	if err := r.acquire(ctx); err != nil {
		return err
	}
	defer r.release()
	return act()
}

// runs reports whether the VMM of r was started and has not exited.
func (r *reservation) runs() bool {
	p := r.process.Load()
	return p != nil && !exited(p)
}

// mayRun is runs, and true of what adopt could not tell.
func (r *reservation) mayRun() bool { return r.runs() || r.unproven.Load() }

// table is every reservation, also on disk.
type table struct {
	dir string

	// mu guards the fields that follow, and the files in dir. It is held for
	// microseconds.
	mu      sync.Mutex
	byID    map[string]*reservation
	handles map[string]*reservation
	slots   map[int]*reservation
	claims  claims
	// released counts the slots that were given up, and last has at which count each was.
	// A new helper counts anew.
	released uint64
	last     [maxVMs]uint64
}

// loadTable reads what an earlier helper had reserved. A record that makes no sense
// is removed and told: its VM has no handle any more, so that adopt ends it. One that
// cannot be read at all is an error: it may be as good as ever in a moment.
func loadTable(dir string, log *slog.Logger) (*table, error) {
	t := &table{
		dir:     dir,
		byID:    make(map[string]*reservation),
		handles: make(map[string]*reservation),
		slots:   make(map[int]*reservation),
		claims:  make(claims),
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("load reservations: %w", err)
	}
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		if filepath.Ext(path) != ".json" {
			if err := os.Remove(path); err != nil { // a write that a crash cut short
				return nil, fmt.Errorf("load reservations: %w", err)
			}
			continue
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return nil, fmt.Errorf("load reservations: %w", err)
		}
		r, err := decodeRecord(data)
		if err == nil && e.Name() != r.rec.ID+".json" {
			err = fmt.Errorf("its id is %q", r.rec.ID)
		}
		if err == nil {
			err = t.addLocked(r)
		}
		if err != nil {
			log.Error("remove a reservation that makes no sense", "path", path, "error", err)
			if err := os.Remove(path); err != nil {
				return nil, fmt.Errorf("load reservations: %w", err)
			}
		}
	}
	return t, nil
}

func decodeRecord(data []byte) (*reservation, error) {
	r := newReservation(record{})
	r.used = true
	if err := json.Unmarshal(data, &r.rec); err != nil {
		return nil, err
	}
	return r, r.rec.check()
}

// addLocked refuses what would shadow another reservation.
func (t *table) addLocked(r *reservation) error {
	if t.byID[r.rec.ID] != nil || t.handles[r.rec.Handle] != nil || t.slots[r.rec.Slot] != nil {
		return fmt.Errorf("id %s, its handle or slot %d is taken", r.rec.ID, r.rec.Slot)
	}
	t.byID[r.rec.ID], t.handles[r.rec.Handle], t.slots[r.rec.Slot] = r, r, r
	t.claims.add(r, r.rec.Disks)
	return nil
}

// reserve takes the slot that has been free for longest, of several the lowest: what is
// still on its way to the VM that had an address last, an answer to a name or a packet of
// a connection, is not to reach the next one. The same request gets the same answer.
func (t *table) reserve(request string) (*reservation, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, r := range t.handles {
		if r.rec.Request == request {
			return r, nil
		}
	}
	slot := -1
	for s := range maxVMs {
		if t.slots[s] == nil && (slot < 0 || t.last[s] < t.last[slot]) {
			slot = s
		}
	}
	if slot < 0 {
		return nil, &ops.Error{Code: ops.Limit, Message: fmt.Sprintf("%d VMs are reserved already", maxVMs),
			HintText: "delete VMs that you do not need"}
	}
	var secret [20]byte
	if _, err := io.ReadFull(rand.Reader, secret[:]); err != nil {
		return nil, fmt.Errorf("reserve: %w", err)
	}
	r := newReservation(record{
		Handle:  hex.EncodeToString(secret[:16]),
		ID:      hex.EncodeToString(secret[16:]),
		Slot:    slot,
		Request: request,
	})
	if err := t.addLocked(r); err != nil { // 32 random bits met their like
		return nil, fmt.Errorf("reserve: %w, try again", err)
	}
	if err := t.saveLocked(&r.rec); err != nil {
		t.dropLocked(r)
		return nil, err
	}
	return r, nil
}

// save writes the record of r, whose token the caller has.
func (t *table) save(r *reservation) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.saveLocked(&r.rec)
}

// saveLocked replaces a record at once. The folder is on a tmpfs: it ends with
// the boot, as the VMs do, so nothing is synced.
func (t *table) saveLocked(rec *record) error {
	data, err := json.Marshal(rec)
	if err != nil {
		return fmt.Errorf("save reservation: %w", err)
	}
	path := filepath.Join(t.dir, rec.ID+".json")
	if err := os.WriteFile(path+".tmp", data, 0o600); err != nil {
		return fmt.Errorf("save reservation: %w", err)
	}
	if err := os.Rename(path+".tmp", path); err != nil {
		return fmt.Errorf("save reservation: %w", err)
	}
	return nil
}

// lock returns the reservation with this handle and its token. The caller gives that
// back with release.
func (t *table) lock(ctx context.Context, handle string) (*reservation, error) {
	t.mu.Lock()
	r := t.handles[handle]
	t.mu.Unlock()
	if r != nil {
		if err := r.acquire(ctx); err != nil {
			return nil, err
		}
		if !r.gone {
			return r, nil
		}
		r.release()
	}
	return nil, &ops.Error{Code: ops.NotFound, Message: "no VM has this handle"}
}

// forget removes r, whose token the caller has, from memory and disk.
func (t *table) forget(r *reservation) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if err := os.Remove(filepath.Join(t.dir, r.rec.ID+".json")); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("forget reservation: %w", err)
	}
	t.dropLocked(r)
	t.released++
	t.last[r.rec.Slot] = t.released
	r.gone = true
	return nil
}

func (t *table) dropLocked(r *reservation) {
	delete(t.byID, r.rec.ID)
	delete(t.handles, r.rec.Handle)
	delete(t.slots, r.rec.Slot)
}

// all returns the reservations of this moment.
func (t *table) all() []*reservation {
	t.mu.Lock()
	defer t.mu.Unlock()
	list := make([]*reservation, 0, len(t.handles))
	for _, r := range t.handles {
		list = append(list, r)
	}
	return list
}
