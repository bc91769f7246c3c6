package main_test

import (
	"context"
	"fmt"
	"os/exec"
	"testing"
	"time"

	"banger/personas/api"
)

// spawns is how many starts of /bin/true a VM's whole life may cost.
const spawns = 12

// others is how many VMs there are beside a further one.
const others = 99

// benchControl measures banger alone: its VMs have a VMM that answers at once.
// Of two hosts, one has all those others.
func benchControl(b *testing.B, t *table) {
	quick, err := buildQuick()
	if err != nil {
		b.Fatal(err)
	}
	c := client(benchHost(b, quick))
	full := client(benchHost(b, quick))
	for i := range others {
		spec := api.VMSpec{Name: fmt.Sprintf("other-%d", i), Start: true}
		if _, err := full.CreateVM(b.Context(), spec, nil); err != nil {
			b.Fatal(err)
		}
	}
	life := func() time.Duration { return timed(b, func() error { return wholeLife(b.Context(), c) }) }
	brief := func() time.Duration { return timed(b, func() error { return briefLife(b.Context(), c) }) }
	create := func(c *api.Client, start bool) func() time.Duration {
		return func() time.Duration { return createOne(b, c, start) }
	}
	life() // the first one makes the initrd

	const turns = 15
	times := inTurn(turns, life, func() time.Duration { return spawnMany(b) }, brief)
	what := fmt.Sprintf("%d spawns of /bin/true", spawns)
	t.compare("create, start, stop, delete; no guest", times[0], what, times[1], 1)
	t.compare("run -d, delete --force; no guest", times[2], what, times[1], 1)
	times = inTurn(turns, create(full, false), create(c, false), create(full, true), create(c, true))
	t.compare(fmt.Sprintf("create VM number %d", others+1), times[0], "the first one", times[1], 1.15)
	t.compare(fmt.Sprintf("create and start number %d", others+1), times[2], "the first one", times[3], 1.15)
}

// wholeLife is a VM's from its creation to its deletion.
func wholeLife(ctx context.Context, c *api.Client) error {
	vm, err := c.CreateVM(ctx, api.VMSpec{}, nil)
	if err != nil {
		return err
	}
	if _, err := c.StartVM(ctx, vm.ID, nil); err != nil {
		return err
	}
	if _, err := c.StopVM(ctx, vm.ID, 0, nil); err != nil {
		return err
	}
	return c.DeleteVM(ctx, vm.ID, false, nil)
}

// briefLife is what `vm run -d` and `vm delete --force` ask for.
func briefLife(ctx context.Context, c *api.Client) error {
	vm, err := c.CreateVM(ctx, api.VMSpec{}, nil)
	if err != nil {
		return err
	}
	if _, err := c.StartVM(ctx, vm.ID, nil); err != nil {
		return err
	}
	return c.DeleteVM(ctx, vm.ID, true, nil)
}

// createOne is the time that the creation of a VM takes, which is then deleted.
func createOne(b *testing.B, c *api.Client, start bool) time.Duration {
	b.Helper()
	var vm api.VM
	took := timed(b, func() (err error) {
		vm, err = c.CreateVM(b.Context(), api.VMSpec{Start: start}, nil)
		return err
	})
	if err := c.DeleteVM(b.Context(), vm.ID, true, nil); err != nil {
		b.Fatal(err)
	}
	return took
}

// spawnMany is the time that the spawns take.
func spawnMany(b *testing.B) time.Duration {
	b.Helper()
	return timed(b, func() error {
		for range spawns {
			if err := exec.Command("/bin/true").Run(); err != nil {
				return err
			}
		}
		return nil
	})
}
