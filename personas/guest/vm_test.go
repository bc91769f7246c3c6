package guest_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"banger/personas/guest/link"
	"banger/personas/vmm/vsock"
	"banger/store/kernel"
)

// A vm is a real guest on QEMU, whose vsock ends in this process.
type vm struct {
	dir     string
	hello   *net.UnixListener
	conn    net.Conn // on which it dialed
	console *console
	qemu    *os.Process
	ended   chan struct{}
	begin   time.Time
}

// console collects what a guest prints.
type console struct {
	// mu guards text.
	mu   sync.Mutex
	text bytes.Buffer
}

func (c *console) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.text.Write(p)
}

func (c *console) String() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.text.String()
}

// start starts a guest with the disks, and waits for it to dial. An emulated kernel
// hangs now and then before it has started anything (see daemon/vm.silentTime): such a
// one is looked at, told, and started again, once.
func start(t *testing.T, disks ...string) *vm {
	t.Helper()
	for try := 1; ; try++ {
		m := launch(t, disks...)
		if err := m.hello.SetDeadline(time.Now().Add(60 * time.Second)); err != nil {
			t.Fatal(err)
		}
		var err error
		if m.conn, err = m.hello.Accept(); err == nil {
			return m
		}
		t.Logf("try %d: the guest does not dial: %v; its processors:\n%sconsole:\n%s", try, err, m.processors(), m.console)
		if try == 2 || !errors.Is(err, os.ErrDeadlineExceeded) {
			t.FailNow()
		}
		_ = m.qemu.Kill()
		<-m.ended
	}
}

// launch starts QEMU.
func launch(t *testing.T, disks ...string) *vm {
	t.Helper()
	qemu := program(t, "qemu-system-x86_64")
	k := cloudKernel(t)
	m := &vm{dir: t.TempDir(), console: new(console), ended: make(chan struct{})}
	var err error
	m.hello, err = net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(m.dir, "v_1024"), Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	device, err := vsock.New(vsock.Config{CID: 3, Path: filepath.Join(m.dir, "v")})
	if err != nil {
		t.Fatal(err)
	}
	ours, theirs := pair(t)
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- device.Serve(ctx, ours) }()
	args := []string{
		"-M", "microvm,acpi=on,pit=on,pic=off,rtc=on,isa-serial=on,x-option-roms=off,auto-kernel-cmdline=off,memory-backend=ram",
		"-accel", "tcg,thread=multi,tb-size=128", "-cpu", "qemu64", "-bios", "qboot.rom", "-smp", "2", "-m", "256M", "-no-reboot",
		"-object", "memory-backend-memfd,id=ram,share=on,size=256M", "-device", "i8042",
		"-qmp", "unix:" + filepath.Join(m.dir, "qmp") + ",server=on,wait=off", "-nodefaults", "-no-user-config", "-display", "none", "-global", "virtio-mmio.force-legacy=false",
		"-kernel", filepath.Join(k.dir, kernel.VmlinuxFile), "-initrd", k.initrd, "-serial", "stdio",
		"-append", "console=ttyS0 quiet panic=-1 reboot=k tsc=reliable no_timer_check mitigations=off cryptomgr.notests 8250.nr_uarts=1 lpj=25000000 tsc_early_khz=" + tscKHz(t),
		"-chardev", "socket,id=vs,fd=3", "-device", "vhost-user-vsock-device,chardev=vs",
		"-netdev", "user,id=n0,restrict=on", "-device", "virtio-net-device,netdev=n0,mac=06:00:0a:53:00:03",
	}
	for i, d := range disks {
		readOnly := "off"
		if filepath.Base(d) == kernel.DriveFile {
			readOnly = "on"
		}
		args = append(args, "-drive", fmt.Sprintf("if=none,id=d%d,file=%s,format=raw,cache=writeback,readonly=%s", i, d, readOnly),
			"-device", fmt.Sprintf("virtio-blk-device,drive=d%d", i))
	}
	cmd := exec.Command(qemu, args...)
	cmd.ExtraFiles = []*os.File{theirs}
	cmd.Stdout, cmd.Stderr = m.console, m.console
	m.begin = time.Now()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	theirs.Close()
	m.qemu = cmd.Process
	go func() {
		_ = cmd.Wait()
		close(m.ended)
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-m.ended
		cancel()
		if err := <-served; err != nil {
			t.Errorf("serve vsock: %v", err)
		}
		m.hello.Close()
		if t.Failed() {
			t.Logf("console:\n%s", m.console)
		}
	})
	return m
}

// processors tells where a guest that hangs does.
func (m *vm) processors() string {
	conn, err := net.Dial("unix", filepath.Join(m.dir, "qmp"))
	if err != nil {
		return err.Error() + "\n"
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(5 * time.Second))
	fmt.Fprintln(conn, `{"execute":"qmp_capabilities"}`)
	var told strings.Builder
	replies := json.NewDecoder(conn)
	for _, what := range []string{"registers -a", "registers -a", "irq", "pic", "lapic 0", "lapic 1"} {
		fmt.Fprintf(conn, `{"execute":"human-monitor-command","id":1,"arguments":{"command-line":"info %s"}}`, what)
		for {
			var reply struct {
				ID     int
				Return any
			}
			if err := replies.Decode(&reply); err != nil {
				return told.String() + err.Error() + "\n"
			}
			if reply.ID == 0 {
				continue
			}
			for line := range strings.Lines(fmt.Sprint(reply.Return)) {
				if !strings.HasPrefix(what, "reg") && !strings.Contains(line, "masked") || strings.Contains(line, "RIP=") {
					told.WriteString(strings.TrimRight(line, "\r\n") + "\n")
				}
			}
			break
		}
	}
	return told.String()
}

// boot configures the guest, which has dialed.
func (m *vm) boot(t *testing.T, config link.BootConfig) (link.Ready, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 90*time.Second)
	defer cancel()
	conn := m.conn
	defer conn.Close()
	hello, err := link.ReadHello(ctx, conn)
	if err != nil {
		t.Fatal(err)
	}
	said := time.Since(m.begin)
	if hello.KernelRelease == "" || hello.BootID == "" || hello.Version != "test" {
		t.Errorf("hello makes no sense: %+v", hello)
	}
	if err := link.SendBoot(ctx, conn, config); err != nil {
		t.Fatal(err)
	}
	ready, err := link.ReadReady(ctx, conn)
	t.Logf("hello after %v (guest %v), ready after %v (guest %v), init %s", said.Round(time.Millisecond),
		time.Duration(hello.UptimeNanos).Round(time.Millisecond), time.Since(m.begin).Round(time.Millisecond),
		time.Duration(ready.UptimeNanos).Round(time.Millisecond), ready.Init)
	return ready, err
}

// mustBoot is boot for a guest that has to come up, without a warning.
func (m *vm) mustBoot(t *testing.T, config link.BootConfig) link.Ready {
	t.Helper()
	ready, err := m.boot(t, config)
	if err != nil {
		t.Fatal(err)
	}
	for _, w := range ready.Warnings {
		t.Errorf("guest warns: %s", w)
	}
	return ready
}

// dial connects to the agent, by Firecracker's words.
func (m *vm) dial(t *testing.T) net.Conn {
	t.Helper()
	conn, err := net.Dial("unix", filepath.Join(m.dir, "v"))
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprintf(conn, "CONNECT %d\n", link.AgentPort)
	line := make([]byte, 0, 32)
	for b := make([]byte, 1); ; line = append(line, b[0]) {
		if _, err := conn.Read(b); err != nil {
			t.Fatalf("dial agent: %q, %v", line, err)
		}
		if b[0] == '\n' {
			break
		}
	}
	if !strings.HasPrefix(string(line), "OK ") {
		t.Fatalf("dial agent: %q", line)
	}
	return conn
}

// sh runs a script in the guest and returns its output.
func (m *vm) sh(t *testing.T, script string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 120*time.Second)
	defer cancel()
	var out bytes.Buffer
	code, err := link.Exec(ctx, m.dial(t), link.ExecRequest{Args: []string{"sh", "-c", script}}, link.ExecIO{Stdout: &out, Stderr: &out})
	if err != nil || code != 0 {
		t.Fatalf("%s: exit code %d, %v\n%s", script, code, err, out.String())
	}
	return out.String()
}

// shutdown ends the guest, and waits for its VMM.
func (m *vm) shutdown(t *testing.T, req link.ShutdownRequest) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	begin := time.Now()
	if err := link.Shutdown(ctx, m.dial(t), req); err != nil {
		t.Fatal(err)
	}
	select {
	case <-m.ended:
		t.Logf("ended after %v", time.Since(begin).Round(time.Millisecond))
	case <-time.After(time.Duration(60+req.GraceSeconds) * time.Second):
		t.Fatal("the guest does not end")
	}
}

func pair(t *testing.T) (*net.UnixConn, *os.File) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(fds[0]), "ours")
	defer f.Close()
	conn, err := net.FileConn(f)
	if err != nil {
		t.Fatal(err)
	}
	return conn.(*net.UnixConn), os.NewFile(uintptr(fds[1]), "theirs")
}

// tscKHz returns the speed of the time stamp counter, without which a guest
// kernel may hang under emulation.
func tscKHz(t *testing.T) string {
	t.Helper()
	f, err := os.Open("/proc/cpuinfo")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if name, value, _ := strings.Cut(lines.Text(), ":"); strings.TrimSpace(name) == "cpu MHz" {
			mhz, err := strconv.ParseFloat(strings.TrimSpace(value), 64)
			if err != nil {
				t.Fatal(err)
			}
			return strconv.Itoa(int(mhz * 1000))
		}
	}
	t.Skip("needs a processor that says its speed")
	return ""
}
