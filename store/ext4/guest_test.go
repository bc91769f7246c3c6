package ext4_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"banger/store/ext4"
	"banger/store/ext4/ext4test"
	"banger/testdata/assets"
)

// TestGrowsInGuest grows images online under a guest's kernel. Where the host itself may do
// that, TestGrowsOnline does the same without a guest.
func TestGrowsInGuest(t *testing.T) {
	qemu, err := exec.LookPath("qemu-system-x86_64")
	if err != nil {
		t.Skip("no qemu-system-x86_64")
	}
	kernel := assets.Kernel(t)
	ramdisk := assets.Initrd(t, kernel, "./testdata/growinit", []string{
		"drivers/virtio/virtio_ring", "drivers/virtio/virtio", "drivers/virtio/virtio_mmio", "drivers/block/virtio_blk",
	})
	for _, c := range []struct{ from, max, to int64 }{
		{16 << 20, 0, 200 << 20},
		{0, 0, 20 << 30},                   // 16 descriptor blocks more
		{5<<30 + 777*4096, 0, 300<<30 + 1}, // with a last group that is not full
		{1 << 30, 20 << 30, 20 << 30},      // as far as was asked for
		{1 << 30, 1, 20 << 30},             // and further, with another layout
	} {
		t.Run(fmt.Sprintf("%d of %d to %d", c.from, c.max, c.to), func(t *testing.T) {
			disk := filepath.Join(t.TempDir(), "disk")
			content := bytes.Repeat([]byte("banger"), 100000)
			size := writeOneFile(t, disk, ext4.Options{SizeBytes: c.from, MaxBytes: c.max}, content)
			if err := os.Truncate(disk, c.to/4096*4096); err != nil {
				t.Fatal(err)
			}
			said := runGuest(t, qemu, kernel, ramdisk, disk)
			if want := fmt.Sprintf("TEST content %x", sha256.Sum256(content)); !strings.Contains(said, want) || !strings.Contains(said, "TEST end") {
				t.Fatalf("the guest said:\n%s", said)
			}
			var before, after int64
			at := strings.Index(said, "TEST grown")
			if _, err := fmt.Sscanf(said[at:], "TEST grown %d %d", &before, &after); err != nil {
				t.Fatal(err)
			}
			if before*4096 > size || after*4096 < c.to*9/10 {
				t.Errorf("grew from %d to %d blocks", before, after)
			}
			ext4test.Check(t, disk)
		})
	}
}

// writeOneFile makes an image with one file and returns the size of the file system.
func writeOneFile(t *testing.T, path string, opts ext4.Options, content []byte) int64 {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	w, err := ext4.NewWriter(f, opts)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Abort()
	if err := w.Create("file", ext4.Header{Mode: 0o100644, Size: int64(len(content))}); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(content); err != nil {
		t.Fatal(err)
	}
	s, err := w.Finish()
	if err != nil {
		t.Fatal(err)
	}
	return s.SizeBytes
}

// runGuest boots the disk under QEMU and returns what the guest said.
func runGuest(t *testing.T, qemu, kernel, ramdisk, disk string) string {
	t.Helper()
	// About one emulated guest in a hundred hangs before it has started anything (see
	// silentTime of banger/personas/daemon/vm). That is not what is tested here.
	said, err := tryGuest(t, qemu, kernel, ramdisk, disk)
	if err != nil && !strings.Contains(said, "TEST ") {
		t.Logf("the guest is started again: %v\n%s", err, said)
		said, err = tryGuest(t, qemu, kernel, ramdisk, disk)
	}
	if err != nil {
		t.Fatalf("qemu: %v\n%s", err, said)
	}
	return said
}

func tryGuest(t *testing.T, qemu, kernel, ramdisk, disk string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 90*time.Second)
	defer cancel()
	args := strings.Fields("-M microvm,acpi=on,pit=on,pic=off,rtc=on,isa-serial=on,x-option-roms=off,auto-kernel-cmdline=off" +
		" -accel tcg,thread=multi,tb-size=128 -cpu qemu64 -bios qboot.rom -smp 1 -m 256M -nodefaults -no-user-config" +
		" -display none -no-reboot -serial stdio -global virtio-mmio.force-legacy=false -device virtio-blk-device,drive=d0")
	args = append(args, "-drive", "if=none,id=d0,format=raw,discard=unmap,file="+disk,
		"-kernel", filepath.Join(kernel, "vmlinux"), "-initrd", ramdisk,
		"-append", "console=ttyS0 quiet panic=-1 reboot=k tsc=reliable tsc_early_khz="+hostKHz(t)+
			" no_timer_check mitigations=off cryptomgr.notests i8042.noaux 8250.nr_uarts=1")
	out, err := exec.CommandContext(ctx, qemu, args...).CombinedOutput()
	return string(out), err
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
