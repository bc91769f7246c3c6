package kernel_test

import (
	"bufio"
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"banger/store/kernel"
	"banger/store/kernel/initrd"
	"banger/store/kernel/modules"
)

// TestBoot boots what Import made of Debian's kernels under QEMU, with a first
// process that loads the modules in the order given.
func TestBoot(t *testing.T) {
	qemu, err := exec.LookPath("qemu-system-x86_64")
	if err != nil {
		t.Skip("no qemu-system-x86_64")
	}
	if _, err := exec.LookPath("mkfs.ext4"); err != nil {
		t.Skip("no mkfs.ext4")
	}
	init := buildInit(t)
	for _, flavour := range []string{"cloud", "generic"} {
		t.Run(flavour, func(t *testing.T) {
			if flavour == "generic" && testing.Short() {
				t.Skip("short: importing a generic kernel takes long")
			}
			dir, info := imported(t, flavour)
			console := boot(t, qemu, dir, buildInitrd(t, init, dir, info), ext4WithMark(t))
			t.Log(console.first("loaded"))
			for _, want := range []string{
				"exists /dev/vda true", "exists /sys/class/net/eth0 true", "exists /dev/hwrng true",
				"vsock true <nil>", "ext4 true", `mark "here\n" <nil>`, "overlay <nil>", "end",
			} {
				if !slices.Contains(console, want) {
					t.Errorf("the guest did not say %q", want)
				}
			}
			// /proc/modules lists the newest first; the overlay is loaded later.
			var loaded []string
			for _, line := range console {
				if name, ok := strings.CutPrefix(line, "module "); ok {
					loaded = append(loaded, name)
				}
			}
			slices.Reverse(loaded)
			var want []string
			for _, m := range info.Modules.Boot {
				want = append(want, modules.NameOf(m))
			}
			if !slices.Equal(loaded, want) {
				t.Errorf("loaded modules\n got %v\nwant %v", loaded, want)
			}
			if t.Failed() {
				t.Logf("console:\n%s", strings.Join(console, "\n"))
			}
		})
	}
}

// lines is what the guest said, without "TEST ".
type lines []string

func (l lines) first(prefix string) string {
	for _, line := range l {
		if strings.HasPrefix(line, prefix) {
			return line
		}
	}
	return ""
}

func buildInit(t *testing.T) string {
	t.Helper()
	out := filepath.Join(t.TempDir(), "init")
	cmd := exec.CommandContext(t.Context(), "go", "build", "-ldflags=-s -w", "-o", out, "./testdata/bootinit")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH=amd64")
	if msg, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build init: %v\n%s", err, msg)
	}
	return out
}

func buildInitrd(t *testing.T, init, dir string, info kernel.Info) string {
	t.Helper()
	f, err := os.Open(init)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	stat, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(t.TempDir(), "initrd")
	out, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	w := bufio.NewWriter(out)
	err = initrd.Build(w, initrd.Spec{
		Init: f, InitBytes: stat.Size(), Release: info.Release,
		Modules: os.DirFS(filepath.Join(dir, kernel.ModulesDir)),
		Boot:    info.Modules.Boot, OnDemand: info.Modules.OnDemand,
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Flush(); err != nil {
		t.Fatal(err)
	}
	return name
}

func ext4WithMark(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "mark"), []byte("here\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	disk := filepath.Join(t.TempDir(), "disk")
	if msg, err := exec.CommandContext(t.Context(), "mkfs.ext4", "-q", "-d", dir, disk, "16M").CombinedOutput(); err != nil {
		t.Fatalf("mkfs.ext4: %v\n%s", err, msg)
	}
	return disk
}

func boot(t *testing.T, qemu, dir, initrd, disk string) lines {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	args := strings.Fields("-M microvm,acpi=on,pit=on,pic=off,rtc=on,isa-serial=on,x-option-roms=off,auto-kernel-cmdline=off" +
		" -accel tcg,thread=multi,tb-size=128 -cpu qemu64 -bios qboot.rom -smp 1 -m 256M -nodefaults -no-user-config" +
		" -display none -no-reboot -serial stdio -global virtio-mmio.force-legacy=false" +
		" -device virtio-blk-device,drive=d0 -netdev user,id=n0,restrict=on -device virtio-net-device,netdev=n0" +
		" -object rng-random,id=rng,filename=/dev/urandom -device virtio-rng-device,rng=rng")
	args = append(args, "-drive", "if=none,id=d0,format=raw,file="+disk,
		"-kernel", filepath.Join(dir, kernel.VmlinuxFile), "-initrd", initrd,
		"-append", "console=ttyS0 quiet panic=-1 reboot=k tsc=reliable tsc_early_khz="+hostKHz(t)+
			" no_timer_check mitigations=off cryptomgr.notests i8042.noaux 8250.nr_uarts=1")
	out, err := exec.CommandContext(ctx, qemu, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("qemu: %v\n%s", err, out)
	}
	var said lines
	for line := range bytes.Lines(out) {
		if text, ok := strings.CutPrefix(strings.TrimSpace(string(line)), "TEST "); ok {
			said = append(said, text)
		}
	}
	if len(said) == 0 {
		t.Fatalf("the guest said nothing; its console:\n%s", out)
	}
	return said
}

// hostKHz is the host's TSC frequency as /proc/cpuinfo tells it: without it, a guest
// under TCG hangs now and then while it measures its own.
func hostKHz(t *testing.T) string {
	t.Helper()
	data, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(data)) {
		if key, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(key) == "cpu MHz" {
			mhz, err := strconv.ParseFloat(strings.TrimSpace(value), 64)
			if err != nil {
				t.Fatal(err)
			}
			return strconv.Itoa(int(mhz * 1000))
		}
	}
	t.Skip("no cpu MHz in /proc/cpuinfo")
	return ""
}
