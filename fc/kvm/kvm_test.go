package kvm

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"
	"unsafe"
)

// The kernel takes these structs by size: a wrong one is another ioctl.
func TestStructsHaveTheKernelsSizes(t *testing.T) {
	for name, c := range map[string]struct{ got, want uintptr }{
		"kvm_regs":                       {unsafe.Sizeof(regs{}), setRegs >> 16 & 0x3fff},
		"kvm_sregs":                      {unsafe.Sizeof(sregs{}), setSregs >> 16 & 0x3fff},
		"kvm_userspace_memory_region":    {unsafe.Sizeof(memoryRegion{}), setMemoryRegion >> 16 & 0x3fff},
		"the distance of the jump back":  {uintptr(len(code())), 256 - uintptr(code()[len(code())-1])},
		"the distance of the inner jump": {2 + 2, 256 - uintptr(code()[8])},
	} {
		if c.got != c.want {
			t.Errorf("%s: %d, want %d", name, c.got, c.want)
		}
	}
}

func TestProbeTellsReasonsApart(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "kvm")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if r := probe(t.Context(), filepath.Join(dir, "none")); r.State != Missing {
		t.Errorf("no device: %+v", r)
	}
	if r := probe(t.Context(), file); r.State != Unusable || r.Detail == "" {
		t.Errorf("a file that is no KVM: %+v", r)
	}
	if os.Geteuid() != 0 {
		if err := os.Chmod(file, 0); err != nil {
			t.Fatal(err)
		}
		if r := probe(t.Context(), file); r.State != NoPermission {
			t.Errorf("a device that may not be opened: %+v", r)
		}
	}
}

// Whatever KVM is worth on this machine, the probe says it in time, and with a
// reason or a figure.
func TestProbeHere(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	r := Probe(ctx)
	if ctx.Err() != nil || r.Detail == "" || (r.State == Usable) != (r.MIPS >= minMIPS) {
		t.Fatalf("got %+v", r)
	}
	t.Logf("KVM here is %s: %s", r.State, r.Detail)
}
