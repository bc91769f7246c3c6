package dm

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"banger/store/ext4"
	"banger/store/kernel/deb"
	"banger/store/kernel/initrd"
	"banger/testdata/assets"
)

// TestInGuest runs all tests of this package that need a device mapper in a guest
// that has one, and then, on the same disk, those that come after a crash.
func TestInGuest(t *testing.T) {
	if inGuest() {
		t.Skip("this is the guest")
	}
	if testing.Short() {
		t.Skip("short: two boots and what is between them take half a minute")
	}
	qemu, err := exec.LookPath("qemu-system-x86_64")
	if err != nil {
		t.Skip("no qemu-system-x86_64")
	}
	kernel, modules := debian(t)
	ramdisk := guestInitrd(t, modules)
	disk := filepath.Join(t.TempDir(), "disk")
	makeDisk(t, disk)
	for _, run := range []string{"^Test[^A]", "^TestAfterCrash$"} {
		said := boot(t, qemu, kernel, ramdisk, disk, run)
		if !strings.Contains(said, "GUEST result 0") {
			t.Fatalf("%s: the guest said:\n%s", run, said)
		}
		for line := range strings.Lines(said) {
			if line = strings.TrimRight(line, "\r\n"); strings.Contains(line, "--- ") || strings.Contains(line, "_test.go:") {
				t.Log("guest:", line)
			}
		}
		if run == "^TestAfterCrash$" && !strings.Contains(said, "--- PASS: TestAfterCrash") {
			t.Errorf("it was skipped:\n%s", said)
		}
	}
}

func inGuest() bool { return os.Getpid() == 1 }

// loaded are the modules that the guest needs, in order.
var loaded = []string{
	"kernel/drivers/virtio/virtio_ring.ko", "kernel/drivers/virtio/virtio.ko",
	"kernel/drivers/virtio/virtio_mmio.ko", "kernel/drivers/block/virtio_blk.ko",
	"kernel/drivers/block/loop.ko", "kernel/drivers/md/dm-mod.ko", "kernel/drivers/md/dm-bufio.ko",
	"kernel/drivers/md/dm-snapshot.ko",
}

// debian takes the kernel and these modules from Debian's package.
func debian(t *testing.T) (kernel string, modules fstest.MapFS) {
	t.Helper()
	f, err := os.Open(assets.File(t, "linux-image-cloud.deb"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	modules = fstest.MapFS{"modules.dep": &fstest.MapFile{}}
	kernel = filepath.Join(t.TempDir(), "vmlinuz")
	err = deb.Walk(f, func(name string, _ int64, content io.Reader) error {
		if strings.HasPrefix(path.Base(name), "vmlinuz-") {
			data, err := io.ReadAll(content)
			if err != nil {
				return err
			}
			return os.WriteFile(kernel, data, 0o600)
		}
		for _, m := range loaded {
			if !strings.HasSuffix(name, "/"+m) {
				continue
			}
			data, err := io.ReadAll(content)
			if err != nil {
				return err
			}
			modules[m] = &fstest.MapFile{Data: data}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(modules) != len(loaded)+1 {
		t.Fatalf("the package has %d of %d modules", len(modules)-1, len(loaded))
	}
	return kernel, modules
}

// guestInitrd makes an initrd with this test binary for its first process.
func guestInitrd(t *testing.T, modules fstest.MapFS) string {
	t.Helper()
	dir := t.TempDir()
	init := filepath.Join(dir, "init")
	cmd := exec.CommandContext(t.Context(), "go", "test", "-c", "-ldflags=-s -w", "-o", init, ".")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH=amd64")
	if msg, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build init: %v\n%s", err, msg)
	}
	binary, err := os.ReadFile(init)
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	err = initrd.Build(&out, initrd.Spec{
		Init: bytes.NewReader(binary), InitBytes: int64(len(binary)), Release: "guest", Modules: modules, Boot: loaded,
	})
	if err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(dir, "initrd")
	if err := os.WriteFile(name, out.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

// makeDisk makes the guest's disk: what a host has images and stores on.
func makeDisk(t *testing.T, path string) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	w, err := ext4.NewWriter(f, ext4.Options{SizeBytes: 256 << 20})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Finish(); err != nil {
		t.Fatal(err)
	}
}

// boot runs the guest, which ends itself, and returns what it said.
func boot(t *testing.T, qemu, kernel, ramdisk, disk, tests string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	defer cancel()
	args := strings.Fields("-M microvm,acpi=on,pit=on,pic=off,rtc=on,isa-serial=on,x-option-roms=off,auto-kernel-cmdline=off" +
		" -accel tcg,thread=multi,tb-size=128 -cpu qemu64 -bios qboot.rom -smp 2 -m 512M -nodefaults -no-user-config" +
		" -display none -no-reboot -serial stdio -global virtio-mmio.force-legacy=false -device virtio-blk-device,drive=d0")
	args = append(args, "-drive", "if=none,id=d0,format=raw,file="+disk, "-kernel", kernel, "-initrd", ramdisk,
		"-append", "console=ttyS0 quiet panic=-1 reboot=k tsc=reliable tsc_early_khz="+hostKHz(t)+
			" no_timer_check mitigations=off cryptomgr.notests i8042.noaux 8250.nr_uarts=1"+
			" -- -test.v -test.timeout=3m -test.run="+tests)
	out, err := exec.CommandContext(ctx, qemu, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("qemu: %v\n%s", err, out)
	}
	return string(out)
}

// hostKHz is the frequency of the host's clock: without it a guest under TCG hangs now and
// then while it measures its own.
func hostKHz(t *testing.T) string {
	t.Helper()
	data, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		t.Fatal(err)
	}
	var mhz float64
	for line := range strings.Lines(string(data)) {
		if key, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(key) == "cpu MHz" {
			if _, err := fmt.Sscan(value, &mhz); err == nil {
				return fmt.Sprint(int(mhz * 1000))
			}
		}
	}
	t.Skip("no cpu MHz in /proc/cpuinfo")
	return ""
}
