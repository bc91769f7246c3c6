package kvm

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"runtime"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Requests of the kernel's include/uapi/linux/kvm.h, for x86-64.
const (
	kvmGetAPIVersion       = 0xae00
	kvmCreateVM            = 0xae01
	kvmGetVCPUMmapSize     = 0xae04
	kvmCreateVCPU          = 0xae41
	kvmSetUserMemoryRegion = 0x4020ae46
	kvmSetTSSAddr          = 0xae47
	kvmRun                 = 0xae80
	kvmSetRegs             = 0x4090ae82
	kvmGetSregs            = 0x8138ae83
	kvmSetSregs            = 0x4138ae84

	apiVersion = 12
	exitIO     = 2
	exitHLT    = 5
)

// Where things lie in the structures of the same header.
const (
	sizeRegs         = 144
	offsetRIP        = 128
	offsetRFlags     = 136
	sizeSregs        = 312
	offsetCSBase     = 0
	offsetCSSelector = 12
	offsetImmediate  = 1
	offsetExitReason = 8
	minRunSize       = 16
)

// codeAddress is where the probe's one page lies in the guest.
const codeAddress = 0x1000

// code is the guest: spins rounds of a loop, exits writes to a port, and a halt.
func code() []byte {
	c := []byte{0x66, 0xb9} // mov ecx, spins
	c = binary.LittleEndian.AppendUint32(c, spins)
	c = append(c, 0x66, 0x49, 0x75, 0xfc) // 1: dec ecx; jnz 1b
	c = append(c, 0xbb)                   // mov bx, exits
	c = binary.LittleEndian.AppendUint16(c, exits)
	c = append(c, 0xe6, 0x10, 0x4b, 0x75, 0xfb) // 2: out 0x10, al; dec bx; jnz 2b
	return append(c, 0xf4)                      // hlt
}

// machine is a virtual machine of one page and one CPU, in real mode.
type machine struct {
	vm, vcpu int
	memory   []byte
	shared   []byte
}

// newMachine makes a machine of the open device kvm.
func newMachine(kvm int) (m *machine, err error) {
	m = &machine{vm: -1, vcpu: -1}
	defer func() {
		if err != nil {
			m.close()
		}
	}()
	version, err := ioctl(kvm, kvmGetAPIVersion, 0)
	if err != nil {
		return m, fmt.Errorf("ask for version: %w", err)
	}
	if version != apiVersion {
		return m, fmt.Errorf("ask for version: %d is not %d", version, apiVersion)
	}
	if m.vm, err = ioctl(kvm, kvmCreateVM, 0); err != nil {
		return m, fmt.Errorf("create machine: %w", err)
	}
	// Intel's CPUs without unrestricted guests need three pages for real mode; on others
	// this fails, and is not needed.
	_, _ = ioctl(m.vm, kvmSetTSSAddr, 0xfffbd000)
	if err := m.addMemory(); err != nil {
		return m, fmt.Errorf("add memory: %w", err)
	}
	if m.vcpu, err = ioctl(m.vm, kvmCreateVCPU, 0); err != nil {
		return m, fmt.Errorf("create CPU: %w", err)
	}
	size, err := ioctl(kvm, kvmGetVCPUMmapSize, 0)
	if err == nil && size < minRunSize {
		err = fmt.Errorf("%d bytes are too few", size)
	}
	if err != nil {
		return m, fmt.Errorf("ask for size of CPU state: %w", err)
	}
	if m.shared, err = unix.Mmap(m.vcpu, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED); err != nil {
		return m, fmt.Errorf("map CPU state: %w", err)
	}
	return m, m.setRegisters()
}

func (m *machine) addMemory() (err error) {
	m.memory, err = unix.Mmap(-1, 0, unix.Getpagesize(), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_ANONYMOUS)
	if err != nil {
		return err
	}
	copy(m.memory, code())
	region := struct {
		slot, flags                     uint32
		guestAddress, size, hostAddress uint64
	}{0, 0, codeAddress, uint64(len(m.memory)), uint64(uintptr(unsafe.Pointer(&m.memory[0])))}
	return ioctlPointer(m.vm, kvmSetUserMemoryRegion, unsafe.Pointer(&region))
}

// setRegisters makes the CPU begin at codeAddress.
func (m *machine) setRegisters() error {
	var sregs [sizeSregs]byte
	if err := ioctlPointer(m.vcpu, kvmGetSregs, unsafe.Pointer(&sregs)); err != nil {
		return fmt.Errorf("get segments: %w", err)
	}
	binary.NativeEndian.PutUint64(sregs[offsetCSBase:], 0)
	binary.NativeEndian.PutUint16(sregs[offsetCSSelector:], 0)
	if err := ioctlPointer(m.vcpu, kvmSetSregs, unsafe.Pointer(&sregs)); err != nil {
		return fmt.Errorf("set segments: %w", err)
	}
	var regs [sizeRegs]byte
	binary.NativeEndian.PutUint64(regs[offsetRIP:], codeAddress)
	binary.NativeEndian.PutUint64(regs[offsetRFlags:], 2)
	if err := ioctlPointer(m.vcpu, kvmSetRegs, unsafe.Pointer(&regs)); err != nil {
		return fmt.Errorf("set registers: %w", err)
	}
	return nil
}

// run lets the CPU run to its halt.
func (m *machine) run(ctx context.Context) error {
	thread := make(chan int, 1)
	done := make(chan error, 1)
	go func() {
		// A thread of its own, so that it alone is interrupted.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		thread <- unix.Gettid()
		done <- m.runToHalt(ctx)
	}()
	tid := <-thread
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
	}
	// The CPU comes back from the guest at a signal, and does not go there again with
	// immediate_exit set. SIGURG is what Go itself interrupts threads with, at any time.
	m.shared[offsetImmediate] = 1
	for {
		select {
		case <-done:
			return context.Cause(ctx)
		case <-time.After(time.Millisecond):
			if err := unix.Tgkill(unix.Getpid(), tid, unix.SIGURG); err != nil {
				return fmt.Errorf("interrupt CPU: %w", err)
			}
		}
	}
}

func (m *machine) runToHalt(ctx context.Context) error {
	for n := 0; ; {
		_, err := ioctl(m.vcpu, kvmRun, 0)
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return fmt.Errorf("run CPU: %w", err)
		}
		switch reason := binary.NativeEndian.Uint32(m.shared[offsetExitReason:]); reason {
		case exitIO:
			n++
		case exitHLT:
			if n != exits {
				return fmt.Errorf("run CPU: the guest called %d times in place of %d", n, exits)
			}
			return nil
		default:
			return fmt.Errorf("run CPU: it stopped for reason %d after %d calls", reason, n)
		}
	}
}

func (m *machine) close() {
	if m.shared != nil {
		unix.Munmap(m.shared)
	}
	for _, fd := range []int{m.vcpu, m.vm} {
		if fd >= 0 {
			unix.Close(fd)
		}
	}
	if m.memory != nil {
		unix.Munmap(m.memory)
	}
}

func ioctl(fd int, request, argument uintptr) (int, error) {
	n, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), request, argument)
	if errno != 0 {
		return -1, errno
	}
	return int(n), nil
}

func ioctlPointer(fd int, request uintptr, argument unsafe.Pointer) error {
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), request, uintptr(argument))
	if errno != 0 {
		return errno
	}
	return nil
}
