package vmm

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"banger/fc"
	"banger/testdata/assets"

	"golang.org/x/sys/unix"
)

// asVMM makes the test binary be the role.
const asVMM = "BANGER_TEST_VMM"

func TestMain(m *testing.M) {
	if os.Getenv(asVMM) == "" {
		os.Exit(m.Run())
	}
	ctx, stop := context.WithCancel(context.Background())
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT)
	go func() { <-signals; stop() }()
	os.Exit(Main(ctx, os.Args[1:]))
}

// modules are what the guest needs, in load order.
var modules = []string{
	"drivers/virtio/virtio_ring", "drivers/virtio/virtio", "drivers/virtio/virtio_mmio", "net/vmw_vsock/vsock",
	"net/vmw_vsock/vmw_vsock_virtio_transport_common", "net/vmw_vsock/vmw_vsock_virtio_transport", "drivers/block/virtio_blk",
	"net/core/failover", "drivers/net/net_failover", "drivers/net/virtio_net", "drivers/char/hw_random/virtio-rng", "drivers/virtio/virtio_balloon",
}

// bootArguments let the guest boot quickly and say little.
const bootArguments = "console=ttyS0 quiet panic=-1 reboot=k 8250.nr_uarts=1 i8042.noaux"

// files are a kernel and an initrd with the guest of testdata/guest.
type files struct{ kernel, bzImage, initrd string }

// made are the files for all tests of the process. They have no names, and go with it.
var made struct {
	sync.Mutex
	files
	kept []*os.File
}

// keepFiles opens them, and names them by what it has opened.
func keepFiles(kernel, initrd string) error {
	for to, from := range map[*string]string{
		&made.kernel: filepath.Join(kernel, "vmlinux"), &made.bzImage: filepath.Join(kernel, "bzImage"), &made.initrd: initrd,
	} {
		f, err := os.Open(from)
		if err != nil {
			return err
		}
		made.kept = append(made.kept, f)
		*to = fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), f.Fd())
	}
	return nil
}

// initrd is a cpio archive with the guest program and its modules.
// needGuest skips where no guest can be booted.
func needGuest(t *testing.T) files {
	t.Helper()
	if testing.Short() {
		t.Skip("boots a guest")
	}
	if _, err := findQEMU(); err != nil {
		t.Skip(err)
	}
	made.Lock()
	defer made.Unlock()
	if made.initrd == "" {
		kernel := assets.Kernel(t)
		if err := keepFiles(kernel, assets.Initrd(t, kernel, "./testdata/guest", modules)); err != nil {
			t.Fatal(err)
		}
	}
	return made.files
}

// vmm is the role in a process of its own.
type vmm struct {
	dir, socket string
	args        []string
	cmd         *exec.Cmd
	console     *console
	client      *fc.Client
	done        chan struct{}
	hello       *net.UnixListener
	guest       *net.UnixConn
	answers     *bufio.Reader
}

// startVMM starts the role with more arguments and waits for its API, if it has one.
func startVMM(t *testing.T, args ...string) *vmm {
	t.Helper()
	v := &vmm{dir: t.TempDir(), console: new(console), args: args}
	v.socket = filepath.Join(v.dir, "api.sock")
	v.launch(t)
	t.Cleanup(func() {
		v.kill()
		if t.Failed() {
			t.Logf("console:\n%s", v.console)
		}
	})
	return v
}

// launch starts the process, and waits for its API when it is first asked.
func (v *vmm) launch(t *testing.T) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	v.cmd = exec.Command(self, append([]string{"--api-sock", v.socket, "--id", "test-1"}, v.args...)...)
	v.cmd.Env = append(os.Environ(), asVMM+"=1")
	v.cmd.Stdout, v.cmd.Stderr = v.console, v.console
	if err := v.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	v.done = make(chan struct{})
	go func() { v.cmd.Wait(); close(v.done) }()
	v.client = fc.NewClient(nil, func(ctx context.Context) (net.Conn, error) {
		for {
			c, err := new(net.Dialer).DialContext(ctx, "unix", v.socket)
			if err == nil || ctx.Err() != nil {
				return c, err
			}
			select {
			case <-v.done:
				return nil, err
			case <-time.After(5 * time.Millisecond):
			}
		}
	})
}

func (v *vmm) kill() {
	v.client.Close()
	v.cmd.Process.Kill()
	<-v.done
}

// must does requests that have to succeed.
func (v *vmm) must(t *testing.T, requests ...fc.Request) {
	t.Helper()
	for _, r := range requests {
		if err := v.client.Do(t.Context(), r); err != nil {
			t.Fatalf("%T: %v", r, err)
		}
	}
}

// boot starts a guest with a socket device and waits until it can be told what to do.
func (v *vmm) boot(t *testing.T, f files, devices ...fc.Request) {
	t.Helper()
	args := bootArguments
	uds := filepath.Join(v.dir, "v.sock")
	var err error
	if v.hello, err = net.ListenUnix("unix", &net.UnixAddr{Name: uds + "_1024"}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { v.hello.Close() })
	requests := append([]fc.Request{
		fc.MachineConfig{VCPUCount: 2, MemSizeMiB: 192},
		fc.BootSource{KernelPath: f.kernel, InitrdPath: f.initrd, BootArgs: &args},
		fc.Vsock{GuestCID: 3, UDSPath: uds},
	}, devices...)
	requests = append(requests, fc.Action{Type: fc.InstanceStart})
	v.must(t, requests...)
	if v.awaitGuest(t, time.Minute) == nil {
		return
	}
	// About one emulated guest in a hundred hangs before it has started anything (see
	// silentTime of banger/personas/daemon/vm). That is not what is tested here.
	t.Logf("the guest says nothing, and is started again; console:\n%s", v.console)
	v.kill()
	os.Remove(v.socket)
	os.Remove(uds)
	v.launch(t)
	v.must(t, requests...)
	if err := v.awaitGuest(t, 90*time.Second); err != nil {
		t.Fatalf("the guest did not come up: %v", err)
	}
}

func (v *vmm) awaitGuest(t *testing.T, patience time.Duration) error {
	v.hello.SetDeadline(time.Now().Add(patience))
	c, err := v.hello.AcceptUnix()
	if err != nil {
		return err
	}
	t.Cleanup(func() { c.Close() })
	v.guest, v.answers = c, bufio.NewReader(c)
	return nil
}

// ask tells the guest to do something and returns what it says.
func (v *vmm) ask(format string, args ...any) (string, error) {
	v.guest.SetDeadline(time.Now().Add(60 * time.Second))
	if _, err := fmt.Fprintf(v.guest, format+"\n", args...); err != nil {
		return "", err
	}
	line, err := v.answers.ReadString('\n')
	if err != nil {
		return "", err
	}
	verdict, answer, _ := strings.Cut(strings.TrimSpace(line), " ")
	if verdict != "ok" {
		return "", fmt.Errorf("guest: %s", answer)
	}
	return answer, nil
}

func (v *vmm) mustAsk(t *testing.T, format string, args ...any) string {
	t.Helper()
	answer, err := v.ask(format, args...)
	if err != nil {
		t.Fatalf(format+": %v", append(args, err)...)
	}
	return answer
}

// exit waits for the role's end and returns its exit code.
func (v *vmm) exit(t *testing.T) int {
	t.Helper()
	select {
	case <-v.done:
	case <-time.After(60 * time.Second):
		t.Fatal("the VMM does not end")
	}
	return v.cmd.ProcessState.ExitCode()
}

// qemuPid returns the pid of the role's QEMU.
func (v *vmm) qemuPid(t *testing.T) int {
	t.Helper()
	var pid int
	pattern := fmt.Sprintf("/proc/%d/task/*/children", v.cmd.Process.Pid)
	paths, _ := filepath.Glob(pattern)
	for _, path := range paths {
		if b, err := os.ReadFile(path); err == nil && len(b) > 0 {
			fmt.Sscan(string(b), &pid)
		}
	}
	if pid == 0 {
		t.Fatal("the VMM has no child")
	}
	return pid
}

// gone waits until the process of a pidfd has ended.
func gone(pidfd int) bool {
	n, err := unix.Poll([]unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}, 5000)
	return err == nil && n == 1
}

// console collects output.
type console struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (c *console) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.b.Write(p)
}

func (c *console) String() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.b.String()
}

// awaitText waits until the console has text.
func (c *console) awaitText(t *testing.T, text string) {
	t.Helper()
	for deadline := time.Now().Add(60 * time.Second); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		if strings.Contains(c.String(), text) {
			return
		}
	}
	t.Fatalf("no %q on the console", text)
}
