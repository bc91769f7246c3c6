package vm

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"banger/personas/api"
	"banger/store/disk/cow"
)

// checkStore refuses a snapshot that the kernel has given up: what it has is not what
// the guest had written.
func checkStore(v *VM, store io.ReaderAt) error {
	err := cow.Check(store)
	if errors.Is(err, cow.ErrBroken) {
		return lostError{&api.Error{Code: api.CodeConflict, Message: fmt.Sprintf("the disk of VM %s is lost: %v", v.record().Name, err),
			HintText: "see the kernel's log for what has failed; delete the VM and make it again"}}
	}
	return err
}

// lostError is what the user is told of a broken snapshot.
type lostError struct{ told *api.Error }

func (e lostError) Error() string   { return e.told.Error() }
func (e lostError) Unwrap() []error { return []error{e.told, cow.ErrBroken} }

// startReason is why a VM is stopped whose start has failed.
func startReason(err error) string {
	if errors.Is(err, cow.ErrBroken) {
		return "start failed: its disk is lost"
	}
	return "start failed"
}

// storeTime is how often the store of a snapshot is looked at.
const storeTime = 5 * time.Second

// watchStore waits for the end of m. Where its disk is a snapshot, it tells meanwhile
// if the kernel gives that up, which writes so into the store: the guest sees no more
// than errors of its disk.
func (s *Set) watchStore(v *VM, m *machine) {
	rec := v.record()
	if rec.Backend != api.BackendSnapshot {
		<-m.over
		return
	}
	tick := time.NewTicker(cmp.Or(s.StoreTime, storeTime))
	defer tick.Stop()
	for {
		select {
		case <-m.over:
			return
		case <-tick.C:
		}
		if err := readStore(s.ownDisk(&rec)); errors.Is(err, cow.ErrBroken) {
			s.Log.Error("the disk of a VM is lost", "vm", rec.Name, "id", rec.ID, "error", err)
			v.change(func() { m.lost = fmt.Sprintf("its disk is lost: %v", err) })
			<-m.over
			return
		}
	}
}

func readStore(path string) error {
	f, err := openFile(path, os.O_RDONLY)
	if err != nil {
		return err
	}
	defer f.Close()
	return cow.Check(f)
}
