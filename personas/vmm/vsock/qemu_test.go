package vsock

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"banger/testdata/assets"
)

// guestModules are what the guest needs to have AF_VSOCK, in load order.
var guestModules = []string{
	"drivers/virtio/virtio_ring", "drivers/virtio/virtio", "drivers/virtio/virtio_mmio", "net/vmw_vsock/vsock",
	"net/vmw_vsock/vmw_vsock_virtio_transport_common", "net/vmw_vsock/vmw_vsock_virtio_transport",
}

// guest is a running virtual machine with the device under test.
type guest struct {
	path    string // of the device's socket
	dev     *Device
	hello   *net.UnixListener
	console bytes.Buffer
	cmd     *exec.Cmd
	cancel  context.CancelFunc
	served  chan error
}

// bootGuest boots a guest and waits for its hello.
func bootGuest(t testing.TB) *guest {
	t.Helper()
	if testing.Short() {
		t.Skip("boots a guest")
	}
	qemu, err := exec.LookPath("qemu-system-x86_64")
	if err != nil {
		t.Skip("needs qemu-system-x86_64")
	}
	kernel := assets.Kernel(t)
	vmlinux := filepath.Join(kernel, "vmlinux")
	initrd := assets.Initrd(t, kernel, "./testdata/guest", guestModules)
	// On a busy host an emulated kernel now and then measures its timer wrong, and is
	// slower from then on than anybody will wait. That is not what is tested here.
	for attempt := 1; ; attempt++ {
		g := launchGuest(t, qemu, vmlinux, initrd)
		err := g.awaitHello()
		if err == nil {
			t.Cleanup(func() {
				g.stop(t)
				if t.Failed() {
					t.Logf("console:\n%s", &g.console)
				}
			})
			return g
		}
		g.stop(t)
		t.Logf("attempt %d: %v; console:\n%s", attempt, err, &g.console)
		if attempt == 3 {
			t.Fatal("the guest does not come up")
		}
	}
}

// launchGuest starts a device and a QEMU that has it.
func launchGuest(t testing.TB, qemu, vmlinux, initrd string) *guest {
	t.Helper()
	g := &guest{path: filepath.Join(t.TempDir(), "v.sock"), served: make(chan error, 1)}
	var err error
	if g.hello, err = net.ListenUnix("unix", &net.UnixAddr{Name: g.path + "_1024", Net: "unix"}); err != nil {
		t.Fatal(err)
	}
	if g.dev, err = New(Config{CID: 3, Path: g.path}); err != nil {
		t.Fatal(err)
	}
	ours, theirs := socketPair(t)
	ctx, cancel := context.WithCancel(context.Background())
	g.cancel = cancel
	go func() { g.served <- g.dev.Serve(ctx, ours) }()

	g.cmd = exec.Command(qemu,
		"-M", "microvm,acpi=on,pit=on,pic=off,rtc=on,isa-serial=on,x-option-roms=off,auto-kernel-cmdline=off,memory-backend=ram",
		"-accel", "tcg,thread=multi,tb-size=128", "-cpu", "qemu64", "-bios", "qboot.rom", "-smp", "2", "-m", "256M",
		"-object", "memory-backend-memfd,id=ram,share=on,size=256M",
		"-nodefaults", "-no-user-config", "-display", "none", "-global", "virtio-mmio.force-legacy=false",
		"-kernel", vmlinux, "-initrd", initrd, "-serial", "stdio",
		"-append", "console=ttyS0 quiet panic=-1 reboot=k tsc=reliable no_timer_check mitigations=off cryptomgr.notests 8250.nr_uarts=1 lpj=25000000 tsc_early_khz="+tscKHz(t),
		"-chardev", "socket,id=vs,fd=3", "-device", "vhost-user-vsock-device,chardev=vs",
	)
	g.cmd.ExtraFiles = []*os.File{theirs}
	g.cmd.Stdout, g.cmd.Stderr = &g.console, &g.console
	if err := g.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	theirs.Close()
	return g
}

// stop ends QEMU and the device.
func (g *guest) stop(t testing.TB) {
	g.cmd.Process.Kill()
	g.cmd.Wait()
	g.cancel()
	if err := <-g.served; err != nil {
		t.Errorf("serve: %v", err)
	}
	g.hello.Close()
}

// awaitHello waits until the guest has dialled the host.
func (g *guest) awaitHello() error {
	deadline := time.Now().Add(40 * time.Second)
	g.hello.SetDeadline(deadline)
	c, err := g.hello.Accept()
	if err != nil {
		return fmt.Errorf("guest did not say hello: %w", err)
	}
	defer c.Close()
	c.SetDeadline(deadline)
	if line, err := readLine(c); err != nil || line != "hello" {
		return fmt.Errorf("guest said %q: %w", line, err)
	}
	return nil
}

// dial connects to a port of the guest.
func (g *guest) dial(t testing.TB, port int) *net.UnixConn {
	t.Helper()
	c, err := g.tryDial(port)
	if err != nil {
		t.Fatalf("dial port %d: %v", port, err)
	}
	return c
}

func (g *guest) tryDial(port int) (*net.UnixConn, error) {
	c, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: g.path, Net: "unix"})
	if err != nil {
		return nil, err
	}
	c.SetDeadline(time.Now().Add(60 * time.Second))
	fmt.Fprintf(c, "CONNECT %d\n", port)
	line, err := readLine(c)
	if err != nil || !strings.HasPrefix(line, "OK ") {
		c.Close()
		return nil, fmt.Errorf("answer %q: %w", line, err)
	}
	return c, nil
}

// readLine reads to the end of a line and no further.
func readLine(r io.Reader) (string, error) {
	var line []byte
	for b := make([]byte, 1); ; line = append(line, b[0]) {
		if _, err := io.ReadFull(r, b); err != nil || b[0] == '\n' {
			return string(line), err
		}
	}
}

// socketPair returns a connection and the file of its other end.
func socketPair(t testing.TB) (*net.UnixConn, *os.File) {
	t.Helper()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(t.TempDir(), "pair"), Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	a, err := net.DialUnix("unix", nil, l.Addr().(*net.UnixAddr))
	if err != nil {
		t.Fatal(err)
	}
	b, err := l.AcceptUnix()
	if err != nil {
		t.Fatal(err)
	}
	f, err := a.File()
	if err != nil {
		t.Fatal(err)
	}
	a.Close()
	return b, f
}

// tscKHz returns the speed of the time stamp counter, without which a guest kernel may hang.
func tscKHz(t testing.TB) string {
	t.Helper()
	b, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		t.Fatal(err)
	}
	_, after, _ := strings.Cut(string(b), "cpu MHz")
	line, _, _ := strings.Cut(after, "\n")
	mhz, err := strconv.ParseFloat(strings.Trim(line, " \t:"), 64)
	if err != nil {
		t.Fatal(err)
	}
	return strconv.Itoa(int(mhz * 1000))
}
