package vmm

import (
	"encoding/json"
	"fmt"
	"os"
	"strconv"
	"strings"

	"banger/fc"
)

// launch is a QEMU command line in the making, with the descriptors that it speaks of.
// QEMU opens nothing by name but its firmware.
type launch struct {
	args  []string
	files []*os.File
	// sets are the numbers of the descriptor sets.
	sets map[*os.File]int
	// bus counts the virtio-mmio transports that are taken. Each device names its own,
	// from the far end: that is the order in which ACPI lists them and a guest counts its
	// disks. Transport 0 never interrupts, so that a disk there hangs at its first read.
	bus int
}

// firstFile is the number of the first descriptor beyond the standard ones.
const firstFile = 3

// maxDevices is how many virtio transports a microvm has.
const maxDevices = 24

func (l *launch) add(args ...string) { l.args = append(l.args, args...) }

// file gives f to QEMU and returns the number that it has there.
func (l *launch) file(f *os.File) int {
	l.files = append(l.files, f)
	return firstFile + len(l.files) - 1
}

// set gives f to QEMU and returns a path for where QEMU wants a path that it may open more
// than once.
func (l *launch) set(f *os.File) string {
	n := l.file(f)
	if l.sets == nil {
		l.sets = make(map[*os.File]int)
	}
	l.sets[f] = n
	l.add("-add-fd", fmt.Sprintf("fd=%d,set=%d", n, n))
	return fmt.Sprintf("/dev/fdset/%d", n)
}

// device adds a virtio device on the next transport.
func (l *launch) device(format string, args ...any) {
	l.add("-device", fmt.Sprintf(format, args...)+fmt.Sprintf(",bus=virtio-mmio-bus.%d", maxDevices-1-l.bus))
	l.bus++
}

// machine adds all that is not a device. qemu64 gets what x86-64-v2 wants of a CPU, since
// distributions begin to want it: it costs nothing, while "max" costs a fifth of the boot.
func (l *launch) machine(config fc.VMConfig, id string, kvm bool) {
	m := config.MachineConfig
	l.add("-M", "microvm,acpi=on,pit=on,pic=off,rtc=on,isa-serial=on,x-option-roms=off,auto-kernel-cmdline=off,memory-backend=ram")
	if kvm {
		l.add("-accel", "kvm", "-cpu", "host")
	} else {
		l.add("-accel", "tcg,thread=multi,tb-size=128", "-cpu", "qemu64,+ssse3,+sse4.1,+sse4.2,+popcnt,+lahf-lm,+rdrand")
	}
	l.add("-bios", "qboot.rom", "-name", "guest="+id, "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot")
	l.add("-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny")
	l.add("-global", "virtio-mmio.force-legacy=false")
	smp := strconv.Itoa(m.VCPUCount)
	if m.SMT && m.VCPUCount > 1 {
		smp += ",threads=2"
	}
	l.add("-smp", smp, "-m", fmt.Sprintf("%dM", m.MemSizeMiB))
	// Shared, so that the vsock device's process reaches it.
	memory := fmt.Sprintf("memory-backend-memfd,id=ram,share=on,size=%dM", m.MemSizeMiB)
	if m.HugePages == "2M" {
		memory += ",hugetlb=on,hugetlbsize=2M"
	}
	l.add("-object", memory)
	// The keyboard controller is how a kernel reboots, and what Ctrl-Alt-Del comes through.
	l.add("-device", "i8042")
}

// boot adds the kernel. QEMU reopens what /proc/self/fd names.
func (l *launch) boot(kernel, initrd *os.File, args string) {
	l.add("-kernel", fmt.Sprintf("/proc/self/fd/%d", l.file(kernel)))
	if initrd != nil {
		l.add("-initrd", fmt.Sprintf("/proc/self/fd/%d", l.file(initrd)))
	}
	l.add("-append", args)
}

// serial adds the console: out, or standard input and output when out is nil.
func (l *launch) serial(out *os.File) {
	if out == nil {
		l.add("-chardev", "stdio,id=serial,signal=off")
	} else {
		l.add("-chardev", "file,id=serial,append=on,path="+l.set(out))
	}
	l.add("-serial", "chardev:serial")
}

// monitor adds the end of a connection that commands come by.
func (l *launch) monitor(conn *os.File) {
	l.add("-chardev", fmt.Sprintf("socket,id=qmp,fd=%d", l.file(conn)), "-mon", "chardev=qmp,mode=control")
}

// drive adds a disk as three nodes, from the file up: the file, its raw content, and a
// throttle that may be set later. No format is ever guessed.
func (l *launch) drive(index int, d fc.Drive, file *os.File) {
	l.add("-object", throttleGroup(index, d.RateLimiter))
	l.node(fileOptions(file, fileNode(index), l.set(file), d.ReadOnly, d.CacheType))
	l.node(rawOptions(index, fileNode(index), d.ReadOnly, d.CacheType))
	l.node(throttleOptions(index, d.ReadOnly, d.CacheType))
	// A virtio disk has room for 20 bytes of serial number.
	l.device("virtio-blk-device,id=%s,drive=%s,serial=%.20s,write-cache=on", driveDevice(index), driveNode(index), d.ID)
}

// node adds a block node by the options that the monitor would take too.
func (l *launch) node(options map[string]any) {
	b, err := json.Marshal(options)
	if err != nil {
		// Strings and truth values have always a form in JSON.
		panic(err)
	}
	l.add("-blockdev", string(b))
}

func fileNode(index int) string    { return fmt.Sprintf("file%d", index) }
func rawNode(index int) string     { return fmt.Sprintf("raw%d", index) }
func driveNode(index int) string   { return fmt.Sprintf("drive%d", index) }
func driveDevice(index int) string { return fmt.Sprintf("disk%d", index) }
func groupName(index int) string   { return fmt.Sprintf("limit%d", index) }

// network adds an interface on an open tap.
func (l *launch) network(index int, n fc.NetworkInterface, tap *os.File, mac string) {
	l.add("-netdev", fmt.Sprintf("tap,id=net%d,fd=%d", index, l.file(tap)))
	var mtu string
	if n.MTU != 0 {
		mtu = fmt.Sprintf(",host_mtu=%d", n.MTU)
	}
	l.device("virtio-net-device,netdev=net%d,mac=%s%s", index, mac, mtu)
}

// vsock adds a socket device whose other half is at the end of conn.
func (l *launch) vsock(conn *os.File) {
	l.add("-chardev", fmt.Sprintf("socket,id=vsock,fd=%d", l.file(conn)))
	l.device("vhost-user-vsock-device,chardev=vsock")
}

// entropy adds a random number device on the kernel's generator.
func (l *launch) entropy(e fc.Entropy) {
	l.add("-object", "rng-random,id=rng,filename=/dev/urandom")
	var limit string
	if r := e.RateLimiter; r != nil && r.Bandwidth != nil && isLimit(r.Bandwidth) {
		limit = fmt.Sprintf(",max-bytes=%d,period=%d", r.Bandwidth.Size, r.Bandwidth.RefillMillis)
	}
	l.device("virtio-rng-device,rng=rng%s", limit)
}

// balloon adds a balloon that is empty at first.
func (l *launch) balloon(b fc.Balloon) {
	l.device("virtio-balloon-device,id=%s,deflate-on-oom=%s,free-page-reporting=%s", balloonDevice, onOff(b.DeflateOnOOM), onOff(b.FreePageReporting))
}

func onOff(on bool) string {
	if on {
		return "on"
	}
	return "off"
}

// String is the command line for the log.
func (l *launch) String() string { return strings.Join(l.args, " ") }
