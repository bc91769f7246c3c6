package kvm

import (
	"context"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The kernel takes these structs by size: a wrong one is another ioctl.
func TestStructsHaveTheKernelsSizes(t *testing.T) {
	for name, c := range map[string]struct{ got, want uintptr }{
		"kvm_regs":                       {unsafe.Sizeof(regs{}), setRegs >> 16 & 0x3fff},
		"kvm_sregs":                      {unsafe.Sizeof(sregs{}), setSregs >> 16 & 0x3fff},
		"kvm_userspace_memory_region":    {unsafe.Sizeof(memoryRegion{}), setMemoryRegion >> 16 & 0x3fff},
		"the distance of the jump back":  {uintptr(len(code())), 256 - uintptr(code()[len(code())-1])},
		"the distance of the inner jump": {2 + 2, 256 - uintptr(code()[10])},
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

// What is neither hardware nor an instruction emulator is looked at again: a host that
// does much else makes an emulated CPU look like one.
func TestEnough(t *testing.T) {
	for _, c := range []struct {
		n    int
		mips float64
		want bool
	}{{4, 2000, false}, {5, 2000, true}, {5, 1, true}, {5, 4, true}, {5, 7, false}, {99, 7, false}, {100, 7, true}} {
		if got := enough(c.n, c.mips); got != c.want {
			t.Errorf("after %d rounds of %g: %t, want %t", c.n, c.mips, got, c.want)
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

// The runtime interrupts its threads at any time, and the kernel gives up making a VM
// then: that says nothing of KVM.
func TestSignalsSayNothingOfKVM(t *testing.T) {
	kvm, err := unix.Open(Device, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Skipf("needs KVM: %v", err)
	}
	defer unix.Close(kvm)
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	thread, done := unix.Gettid(), make(chan struct{})
	var sender sync.WaitGroup
	sender.Go(func() {
		for {
			select {
			case <-done:
				return
			default:
				_ = unix.Tgkill(os.Getpid(), thread, unix.SIGURG)
			}
		}
	})
	defer sender.Wait()
	defer close(done)
	for i := range 100 {
		m, err := newMachine(kvm)
		if err != nil {
			t.Fatalf("machine %d: %v", i, err)
		}
		m.close()
	}
}
