package fctest_test

import (
	"bytes"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"banger/fc/fctest"
	"banger/fc/kvm"
	"banger/testdata/assets"
)

// TestConformOfFirecracker asks the table of the real one: it is what the other two are
// measured by. BANGER_FIRECRACKER names the binary.
func TestConformOfFirecracker(t *testing.T) {
	binary := os.Getenv("BANGER_FIRECRACKER")
	if binary == "" {
		t.Skip("needs a Firecracker in BANGER_FIRECRACKER")
	}
	if r := kvm.Probe(t.Context()); r.State != kvm.Usable {
		t.Skipf("needs KVM, which is %s: %s", r.State, r.Detail)
	}
	kernel := filepath.Join(assets.Kernel(t), "vmlinux")
	dir := t.TempDir()
	disk := filepath.Join(dir, "disk")
	if err := os.WriteFile(disk, make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(dir, "api.sock")
	cmd := exec.Command(binary, "--api-sock", socket, "--id", "conform")
	var console bytes.Buffer
	cmd.Stdout, cmd.Stderr = &console, &console
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
		if t.Failed() {
			t.Logf("console:\n%s", &console)
		}
	})
	for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(time.Millisecond) {
		conn, err := net.Dial("unix", socket)
		if err == nil {
			conn.Close()
			break
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
	fctest.Conform(t, fctest.Target{
		Socket: socket, OpensFiles: true, NoDrivers: true, Kernel: kernel, Initrd: kernel, Disk: disk, Disk2: disk, UDS: filepath.Join(dir, "v.sock"),
		// Without a root the kernel panics, and with this it stays so.
		BootArgs: "console=ttyS0 quiet panic=0 reboot=k",
	})
}
