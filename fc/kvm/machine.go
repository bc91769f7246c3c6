package kvm

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The ioctls of Documentation/virt/kvm/api.rst that a probe needs.
const (
	getAPIVersion    = 0xae00
	createVM         = 0xae01
	getVCPUMmapSize  = 0xae04
	createVCPU       = 0xae41
	setTSSAddr       = 0xae47
	setMemoryRegion  = 0x4020ae46
	run              = 0xae80
	setRegs          = 0x4090ae82
	getSregs         = 0x8138ae83
	setSregs         = 0x4138ae84
	wantedAPIVersion = 12
)

// The exits of struct kvm_run that a probe knows.
const (
	exitIO            = 2
	exitHlt           = 5
	exitShutdown      = 8
	exitFailEntry     = 9
	exitInternalError = 17
)

type segment struct {
	Base                                           uint64
	Limit                                          uint32
	Selector                                       uint16
	Type, Present, DPL, DB, S, L, G, AVL, Unusable uint8
	_                                              uint8
}

type table struct {
	Base  uint64
	Limit uint16
	_     [3]uint16
}

// sregs is struct kvm_sregs.
type sregs struct {
	CS, DS, ES, FS, GS, SS, TR, LDT segment
	GDT, IDT                        table
	CR0, CR2, CR3, CR4, CR8         uint64
	EFER, APICBase                  uint64
	_                               [4]uint64
}

// regs is struct kvm_regs.
type regs struct {
	RAX, RBX, RCX, RDX, RSI, RDI, RSP, RBP uint64
	R8, R9, R10, R11, R12, R13, R14, R15   uint64
	RIP, RFLAGS                            uint64
}

type memoryRegion struct {
	Slot, Flags                        uint32
	GuestPhys, Bytes, UserspaceAddress uint64
}

// The guest's memory, in bytes: page tables that map it to itself, then code.
const (
	memBytes = 2 << 20
	pml4At   = 0x1000
	pdptAt   = 0x2000
	pdAt     = 0x3000
	loopsAt  = 0xf000 // how often the guest's loop of two instructions runs between two exits
	codeAt   = 0x10000
)

// A loop that an instruction emulator runs in milliseconds, and one that takes
// hardware longer than its exits do.
const (
	shortLoop = 2_500
	longLoop  = 50_000
)

// code is the guest: it counts down, changes its page tables as a kernel that
// switches processes does, exits, and begins again.
func code() []byte {
	c := []byte{0x8b, 0x0c, 0x25}                            // start: mov ecx, [loopsAt]
	c = binary.LittleEndian.AppendUint32(c, uint32(loopsAt)) //
	return append(c,
		0xff, 0xc9, // again: dec ecx
		0x75, 0xfc, // jnz again
		0x0f, 0x20, 0xd8, // mov rax, cr3
		0x0f, 0x22, 0xd8, // mov cr3, rax
		0xe6, 0x10, // out 0x10, al
		0xe6, 0x10, // out 0x10, al
		0xeb, 0xe9, // jmp start
	)
}

// machine is a VM of one CPU.
type machine struct {
	vm, vcpu int
	mem      []byte
	run      []byte // struct kvm_run
}

func newMachine(kvm int) (_ *machine, err error) {
	m := &machine{vm: -1, vcpu: -1}
	defer func() {
		if err != nil {
			m.close()
		}
	}()
	if v, err := ioctl(kvm, getAPIVersion, 0); err != nil || v != wantedAPIVersion {
		return nil, fmt.Errorf("ask for API version: got %d, %v", v, err)
	}
	if m.vm, err = ioctl(kvm, createVM, 0); err != nil {
		return nil, fmt.Errorf("create VM: %w", err)
	}
	if _, err := ioctl(m.vm, setTSSAddr, 0xfffbd000); err != nil { // Intel wants three pages
		return nil, fmt.Errorf("set TSS address: %w", err)
	}
	m.mem, err = unix.Mmap(-1, 0, memBytes, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return nil, fmt.Errorf("map memory: %w", err)
	}
	region := memoryRegion{Bytes: memBytes, UserspaceAddress: uint64(uintptr(unsafe.Pointer(&m.mem[0])))}
	if err := ioctlPtr(m.vm, setMemoryRegion, unsafe.Pointer(&region)); err != nil {
		return nil, fmt.Errorf("give memory: %w", err)
	}
	if m.vcpu, err = ioctl(m.vm, createVCPU, 0); err != nil {
		return nil, fmt.Errorf("create CPU: %w", err)
	}
	size, err := ioctl(kvm, getVCPUMmapSize, 0)
	if err != nil {
		return nil, fmt.Errorf("ask for size of CPU state: %w", err)
	}
	if m.run, err = unix.Mmap(m.vcpu, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED); err != nil {
		return nil, fmt.Errorf("map CPU state: %w", err)
	}
	return m, m.enterLongMode()
}

// enterLongMode puts the CPU where a boot loader leaves a 64-bit kernel.
func (m *machine) enterLongMode() error {
	const present, writable, large = 1, 2, 1 << 7
	binary.LittleEndian.PutUint64(m.mem[pml4At:], pdptAt|present|writable)
	binary.LittleEndian.PutUint64(m.mem[pdptAt:], pdAt|present|writable)
	binary.LittleEndian.PutUint64(m.mem[pdAt:], present|writable|large)
	copy(m.mem[codeAt:], code())

	var s sregs
	if err := ioctlPtr(m.vcpu, getSregs, unsafe.Pointer(&s)); err != nil {
		return fmt.Errorf("get registers: %w", err)
	}
	const protected, paging, pae, longEnabled, longActive = 1, 1 << 31, 1 << 5, 1 << 8, 1 << 10
	s.CR0, s.CR3, s.CR4, s.EFER = protected|paging, pml4At, pae, longEnabled|longActive
	s.CS = segment{Limit: 0xffffffff, Selector: 8, Type: 11, Present: 1, S: 1, L: 1, G: 1}
	data := segment{Limit: 0xffffffff, Selector: 16, Type: 3, Present: 1, DB: 1, S: 1, G: 1}
	s.DS, s.ES, s.FS, s.GS, s.SS = data, data, data, data, data
	if err := ioctlPtr(m.vcpu, setSregs, unsafe.Pointer(&s)); err != nil {
		return fmt.Errorf("set registers: %w", err)
	}
	const reserved = 2 // the flag that is always set
	r := regs{RIP: codeAt, RSP: codeAt, RFLAGS: reserved}
	if err := ioctlPtr(m.vcpu, setRegs, unsafe.Pointer(&r)); err != nil {
		return fmt.Errorf("set registers: %w", err)
	}
	return nil
}

// measure runs the guest's short loop, which tells what KVM is, and what is
// hardware its long one, which tells how fast.
func (m *machine) measure(ctx context.Context) (Report, error) {
	// A signal to this thread is what ends a guest that does not exit.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	stop := m.interruptOn(ctx)
	defer stop()
	r, err := m.rounds(ctx, shortLoop)
	if err != nil || r.MIPS < minMIPS {
		return r, err
	}
	return m.rounds(ctx, longLoop)
}

// rounds runs the guest's loop a few times and takes the fastest: what else
// happens on the host is not KVM's fault. An emulated CPU on a host that has much
// else to do gets more of them.
func (m *machine) rounds(ctx context.Context, loops uint32) (Report, error) {
	binary.LittleEndian.PutUint32(m.mem[loopsAt:], loops)
	var r Report
	loop, exit := time.Duration(1<<62), time.Duration(1<<62)
	for n := 0; !enough(n, r.MIPS); n++ {
		begin := time.Now()
		err := m.untilExit(ctx)
		middle := time.Now()
		if err == nil {
			err = m.untilExit(ctx)
		}
		if err != nil && n > 0 && ctx.Err() != nil {
			break
		}
		if err != nil {
			return Report{}, err
		}
		loop, exit = min(loop, middle.Sub(begin)), min(exit, time.Since(middle))
		r = Report{MIPS: 2 * float64(loops) / max(loop-exit, time.Nanosecond).Seconds() / 1e6, Exit: exit}
	}
	return r, nil
}

// enough reports whether what was measured in n rounds tells what KVM is. The start of
// every VM waits for that, so that there is a limit to patience.
func enough(n int, mips float64) bool {
	const rounds, most = 5, 100
	return n >= most || n >= rounds && (mips <= emulatorMIPS || mips >= minMIPS)
}

// interruptOn makes KVM_RUN on this thread return when ctx ends. The returned
// function must be called on the same thread.
func (m *machine) interruptOn(ctx context.Context) (stop func()) {
	pid, tid := unix.Getpid(), unix.Gettid()
	const immediateExit = 1
	var mu sync.Mutex
	over := false
	cancel := context.AfterFunc(ctx, func() {
		mu.Lock()
		defer mu.Unlock()
		if !over {
			m.run[immediateExit] = 1
			unix.Tgkill(pid, tid, unix.SIGURG) // which Go's runtime sends itself, and ignores
		}
	})
	return func() {
		cancel()
		mu.Lock()
		defer mu.Unlock()
		over = true
	}
}

// untilExit runs the guest to its next instruction OUT.
func (m *machine) untilExit(ctx context.Context) error {
	for {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(m.vcpu), run, 0)
		if errno == unix.EINTR || errno == unix.EAGAIN {
			continue
		}
		if errno != 0 {
			return fmt.Errorf("run guest: %w", errno)
		}
		switch reason := binary.LittleEndian.Uint32(m.run[8:]); reason {
		case exitIO:
			return nil
		case exitHlt, exitShutdown:
			return errors.New("run guest: it crashed")
		case exitFailEntry:
			return errors.New("run guest: the CPU refused its state")
		case exitInternalError:
			return errors.New("run guest: KVM could not emulate an instruction")
		default:
			return fmt.Errorf("run guest: unexpected exit %d", reason)
		}
	}
}

func (m *machine) close() {
	for _, b := range [][]byte{m.run, m.mem} {
		if b != nil {
			unix.Munmap(b)
		}
	}
	for _, fd := range []int{m.vcpu, m.vm} {
		if fd >= 0 {
			unix.Close(fd)
		}
	}
}

// ioctl asks again when a signal came: KVM makes no VM then, and the runtime sends
// its threads signals all the time.
func ioctl(fd int, request, arg uintptr) (int, error) {
	for {
		n, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), request, arg)
		switch errno {
		case 0:
			return int(n), nil
		case unix.EINTR:
		default:
			return -1, errno
		}
	}
}

func ioctlPtr(fd int, request uintptr, arg unsafe.Pointer) error {
	for {
		_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), request, uintptr(arg))
		switch errno {
		case 0:
			return nil
		case unix.EINTR:
		default:
			return errno
		}
	}
}
