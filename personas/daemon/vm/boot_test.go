package vm

import (
	"testing"

	"banger/personas/api"
	"banger/personas/guest/link"
)

// A VM's machine id is its own and stays; and the guest is told when a disk is
// new, because the id on it is then the image's.
func TestMachineID(t *testing.T) {
	l := newLab(t)
	l.create(t, l.spec("web"))
	_, err := l.Restart(t.Context(), "web", 0, ignore)
	must(t, err)
	l.create(t, l.spec("db"))
	l.h.mu.Lock()
	defer l.h.mu.Unlock()
	b := l.h.boots
	if len(b) != 3 {
		t.Fatalf("%d boots", len(b))
	}
	for _, c := range b {
		if !link.MachineID(c.MachineID) || c.MachineID[12] != '4' {
			t.Errorf("%q is not a machine id of a random UUID's form", c.MachineID)
		}
	}
	if b[0].MachineID != b[1].MachineID || b[0].MachineID == b[2].MachineID {
		t.Errorf("two boots of one VM, and one of another, have %q, %q and %q", b[0].MachineID, b[1].MachineID, b[2].MachineID)
	}
	if !b[0].FirstBoot || b[1].FirstBoot || !b[2].FirstBoot {
		t.Errorf("first boots: %t, %t, %t", b[0].FirstBoot, b[1].FirstBoot, b[2].FirstBoot)
	}
}

// The guest is told where its modules are, by the place that the drive has among
// the others.
func TestModulesDrive(t *testing.T) {
	s := &Set{Records: newLab(t).Records}
	for _, c := range []struct {
		backend api.Backend
		boot    Boot
		want    string
	}{
		{api.BackendCopy, Boot{}, ""},
		{api.BackendCopy, Boot{Modules: "/m"}, "vdb"},
		{api.BackendSnapshot, Boot{}, ""},
		{api.BackendSnapshot, Boot{Modules: "/m"}, "vdb"},
		{api.BackendOverlay, Boot{}, ""},
		{api.BackendOverlay, Boot{Modules: "/m"}, "vdc"},
	} {
		r := &Record{ID: "0123456789abcdef", Backend: c.backend, Spec: api.VMSpec{Net: api.NetNone}}
		disks := s.disks(r, c.boot)
		config, err := bootConfig(r, disks, 0)
		must(t, err)
		if config.Modules != c.want {
			t.Errorf("%s, %q: modules on %q, want %q", c.backend, c.boot.Modules, config.Modules, c.want)
		}
		if last := disks[len(disks)-1]; c.want != "" && (!last.readOnly || last.path != "/m") {
			t.Errorf("%s: the last drive is %+v", c.backend, last)
		}
	}
}
