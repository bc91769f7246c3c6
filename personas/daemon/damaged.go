package daemon

import (
	"errors"
	"fmt"
	"io/fs"

	"banger/personas/daemon/catalog"
	"banger/personas/daemon/vm"
	"banger/store"
)

// Damage is a record that cannot be read, beside which a daemon runs.
type Damage struct {
	store.Damage
	// GiveUp is the command that deletes it with all that belongs to it.
	GiveUp string
}

// Damaged tells which records of a state directory cannot be read. It changes
// nothing, and needs no daemon. Where there is no state yet there is no damage.
func Damaged(dir string) ([]Damage, error) {
	s := store.Reader(dir)
	var all []Damage
	for _, kind := range []struct {
		giveUp string
		look   func() ([]store.Damage, error)
	}{
		{"banger vm delete --force", func() ([]store.Damage, error) { return vm.Look(store.Kind[vm.Record](s, "vms")) }},
		{"banger image delete", func() ([]store.Damage, error) { return catalog.Look(store.Kind[catalog.Image](s, "images")) }},
		{"banger kernel delete", func() ([]store.Damage, error) { return catalog.Look(store.Kind[catalog.Kernel](s, "kernels")) }},
	} {
		damaged, err := kind.look()
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		for _, d := range damaged {
			all = append(all, Damage{d, fmt.Sprintf("%s %s", kind.giveUp, d.ID)})
		}
	}
	return all, nil
}
