package daemon

import (
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"banger/personas/api"
)

// One damaged record of each kind: the daemon starts and lists what is sound,
// and what is not can be found, and given up.
func TestDamagedRecords(t *testing.T) {
	l := newLab(t)
	torn := l.vm(t, api.VMSpec{Name: "torn"})
	l.vm(t, api.VMSpec{Name: "sound"})
	l.importImage(t, "other", "other")
	_, err := l.importKernel(t, "other", "6.2.0-test (test@test) #1")
	must(t, err)
	dir := l.store.Dir
	if damaged, err := Damaged(dir); err != nil || len(damaged) != 0 {
		t.Errorf("damaged are %v, %v", damaged, err)
	}
	l.end()
	for _, record := range []string{"vms/" + torn.ID, "images/other", "kernels/other"} {
		must(t, os.Truncate(filepath.Join(dir, record, "record.json"), 20))
	}
	damaged, err := Damaged(dir)
	must(t, err)
	var giveUp []string
	for _, d := range damaged {
		giveUp = append(giveUp, d.GiveUp)
		if !strings.Contains(d.Err.Error(), d.Path) {
			t.Errorf("%s: %v", d.ID, d.Err)
		}
	}
	want := []string{"banger vm delete --force " + torn.ID, "banger image delete other", "banger kernel delete other"}
	if !slices.Equal(giveUp, want) {
		t.Errorf("given up by %q, want %q", giveUp, want)
	}

	d, err := open(t.Context(), slog.New(slog.DiscardHandler), dir)
	must(t, err)
	defer d.store.Close()
	d.helper, d.vms.Helper = l.helper, l.helper
	states := make(map[string]api.State)
	for _, v := range d.vms.List() {
		states[v.Name] = v.State
	}
	if len(states) != 2 || states["sound"] != api.Stopped || states[torn.ID] != api.Damaged {
		t.Errorf("VMs are %v", states)
	}
	if len(d.images.List()) != 1 || len(d.kernels.List()) != 1 {
		t.Errorf("listed are %v and %v", d.images.List(), d.kernels.List())
	}
	must(t, d.vms.Delete(t.Context(), torn.ID, true))
	must(t, d.images.Delete("other"))
	must(t, d.kernels.Delete("other"))
	if damaged, err := Damaged(dir); err != nil || len(damaged) != 0 {
		t.Errorf("after giving up: %v, %v", damaged, err)
	}
}

func TestNoStateHasNoDamage(t *testing.T) {
	if damaged, err := Damaged(filepath.Join(t.TempDir(), "none")); err != nil || len(damaged) != 0 {
		t.Errorf("got %v, %v", damaged, err)
	}
}
