package vmm

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"unicode"

	"banger/fc"
	"banger/fc/server"
	"banger/personas/vmm/vsock"

	"golang.org/x/sys/unix"
)

// Prepare implements server.Machine.
func (m *machine) Prepare(_ context.Context, r fc.Request) error {
	switch r := r.(type) {
	case fc.BootSource:
		return m.openBootSource(r)
	case fc.Drive:
		return m.openDrive(r)
	case fc.NetworkInterface:
		return m.openNetwork(r)
	case fc.Vsock:
		return m.openVsock(r)
	case fc.Serial:
		return m.openSerial(r)
	case fc.Logger:
		return m.log.configure(r)
	case fc.Metrics:
		return m.metrics.open(r.Path)
	case fc.MachineConfig:
		if r.CPUTemplate != "" {
			return server.Unsupported("CPU templates")
		}
	case fc.Entropy:
		if r.RateLimiter != nil && isLimit(r.RateLimiter.Ops) {
			return server.Unsupported("a limit of operations on the entropy device")
		}
	case fc.Balloon:
		if r.FreePageHinting {
			return server.Unsupported("free page hinting")
		}
	case fc.SnapshotLoad:
		return server.Unsupported("snapshots")
	}
	return nil
}

func (m *machine) openBootSource(r fc.BootSource) error {
	kernel, err := openRegular(r.KernelPath, unix.O_RDONLY)
	if err != nil {
		return fmt.Errorf("The kernel file cannot be opened: %w", err)
	}
	if err := checkKernel(kernel); err != nil {
		kernel.Close()
		return fmt.Errorf("The kernel file cannot be used: %w", err)
	}
	var initrd *os.File
	if r.InitrdPath != "" {
		if initrd, err = openRegular(r.InitrdPath, unix.O_RDONLY); err != nil {
			kernel.Close()
			return fmt.Errorf("The initrd file cannot be opened due to invalid path or invalid permissions. %w", err)
		}
	}
	closeFile(m.kernel)
	closeFile(m.initrd)
	m.kernel, m.initrd = kernel, initrd
	return nil
}

// checkKernel refuses what QEMU would run as a boot sector, and hang.
func checkKernel(f *os.File) error {
	var head [0x206]byte
	n, err := f.ReadAt(head[:], 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	if string(head[:min(n, 4)]) == "\x7fELF" || n == len(head) && string(head[0x202:]) == "HdrS" {
		return nil
	}
	return errors.New("it is neither an ELF file nor a bzImage")
}

func (m *machine) openDrive(r fc.Drive) error {
	if r.Socket != "" {
		return server.Unsupported("vhost-user block devices")
	}
	mode := unix.O_RDWR
	if r.ReadOnly {
		mode = unix.O_RDONLY
	}
	f, err := openDisk(r.Path, mode)
	if err != nil {
		return fmt.Errorf("Unable to create the virtio block device: Virtio backend error: Error manipulating the backing file: %w", err)
	}
	closeFile(m.drives[r.ID])
	m.drives[r.ID] = f
	return nil
}

// openNetwork keeps an attached tap that is named again: it can be attached but once.
func (m *machine) openNetwork(r fc.NetworkInterface) error {
	if hasLimit(r.RxRateLimiter) || hasLimit(r.TxRateLimiter) {
		return server.Unsupported("rate limits on network interfaces")
	}
	old := m.taps[r.ID]
	if old != nil && old.name == r.HostDevName {
		return nil
	}
	f, err := openTap(r.HostDevName)
	if err != nil {
		return fmt.Errorf("Could not create the network device: %w", err)
	}
	if old != nil {
		old.file.Close()
	}
	m.taps[r.ID] = &tap{r.HostDevName, f}
	return nil
}

func hasLimit(l *fc.RateLimiter) bool {
	return l != nil && (isLimit(l.Bandwidth) || isLimit(l.Ops))
}

// openVsock listens at once, in place of a former device, which lets go of its socket
// before: it may be the same path.
func (m *machine) openVsock(r fc.Vsock) error {
	if m.vsock != nil {
		m.vsock.Close()
		m.vsock = nil
	}
	device, err := vsock.New(vsock.Config{CID: r.GuestCID, Path: r.UDSPath})
	if err != nil {
		return fmt.Errorf("Cannot create backend for vsock device: %w", err)
	}
	m.vsock = device
	return nil
}

func (m *machine) openSerial(r fc.Serial) error {
	if isLimit(r.RateLimiter) {
		return server.Unsupported("a rate limit on the serial console")
	}
	var out *os.File
	if r.OutPath != "" {
		var err error
		if out, err = openOutput(r.OutPath); err != nil {
			return err
		}
	}
	closeFile(m.serial)
	m.serial = out
	return nil
}

// openRegular opens a regular file, without waiting if it turns out to be something else.
func openRegular(path string, mode int) (*os.File, error) {
	f, err := os.OpenFile(path, mode|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("open %s: not a regular file", path)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// openDisk opens a regular file or a block device.
func openDisk(path string, mode int) (*os.File, error) {
	f, err := os.OpenFile(path, mode|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() && (info.Mode()&os.ModeDevice == 0 || info.Mode()&os.ModeCharDevice != 0) {
		err = fmt.Errorf("open %s: neither a regular file nor a block device", path)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// randomMAC is an address of nobody's, for who does not care.
func randomMAC() string {
	var b [5]byte
	rand.Read(b[:])
	return fmt.Sprintf("06:%02x:%02x:%02x:%02x:%02x", b[0], b[1], b[2], b[3], b[4])
}

// qemuPaths are where distributions keep QEMU; the environment has no say in a jail.
var qemuPaths = []string{"/usr/bin/qemu-system-x86_64", "/usr/local/bin/qemu-system-x86_64", "/usr/libexec/qemu-kvm"}

// findQEMU returns the path of QEMU.
func findQEMU() (string, error) {
	for _, path := range qemuPaths {
		if _, err := os.Stat(path); err == nil {
			return path, nil
		}
	}
	path, err := exec.LookPath("qemu-system-x86_64")
	if err != nil {
		return "", errors.New("qemu-system-x86_64 is not installed (Debian: apt install qemu-system-x86)")
	}
	return path, nil
}

// printable is text of QEMU's for a log: one line, no escapes.
func printable(b []byte) string {
	return strings.TrimSpace(strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return ' '
	}, string(b)))
}
