package vmm

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"banger/fc"
	"banger/fc/fctest"

	"golang.org/x/sys/unix"
)

// disk makes a file of so many MiB whose bytes are all c.
func makeDisk(t *testing.T, mib int, c byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(path, bytes.Repeat([]byte{c}, mib<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestConform(t *testing.T) {
	f := needGuest(t)
	v := startVMM(t)
	if _, err := v.client.InstanceInfo(t.Context()); err != nil {
		t.Fatal(err)
	}
	fctest.Conform(t, fctest.Target{
		Socket: v.socket, OpensFiles: true, BootArgs: bootArguments,
		Kernel: f.kernel, Initrd: f.initrd, Disk: makeDisk(t, 1, 'a'), Disk2: makeDisk(t, 1, 'b'), UDS: filepath.Join(v.dir, "v.sock"),
	})
}

// One guest with all devices serves these tests, as booting it takes most of the time.
func TestGuest(t *testing.T) {
	f := needGuest(t)
	v := startVMM(t, "--metrics-path", filepath.Join(t.TempDir(), "metrics"))
	rw, ro, slow := makeDisk(t, 8, 'w'), makeDisk(t, 8, 'r'), makeDisk(t, 8, 's')
	v.boot(t, f,
		fc.Drive{ID: "data", Path: rw, CacheType: fc.CacheWriteback},
		fc.Drive{ID: "image", Path: ro, ReadOnly: true},
		fc.Drive{ID: "slow", Path: slow, RateLimiter: &fc.RateLimiter{Bandwidth: &fc.TokenBucket{Size: 1 << 20, RefillMillis: 1000}}},
		fc.Entropy{},
		fc.Balloon{AmountMiB: 16, DeflateOnOOM: true, StatsIntervalSeconds: 1},
	)
	for _, test := range []struct {
		name string
		run  func(*testing.T, *vmm)
	}{
		{"disks come in order, with their names", func(t *testing.T, v *vmm) {
			for i, id := range []string{"data", "image", "slow"} {
				if got := v.mustAsk(t, "cat /sys/block/vd%c/serial", 'a'+i); got != id {
					t.Errorf("disk %d is %q, want %q", i, got, id)
				}
			}
		}},
		{"what the guest flushed is in the file", func(t *testing.T, v *vmm) {
			v.mustAsk(t, "write /dev/vda precious")
			if b, err := os.ReadFile(rw); err != nil || !bytes.HasPrefix(b, []byte("preciousw")) {
				t.Errorf("file begins with %q, %v", b[:min(len(b), 16)], err)
			}
		}},
		{"a read-only drive refuses to be written", func(t *testing.T, v *vmm) {
			if _, err := v.ask("write /dev/vdb spoilt"); err == nil {
				t.Error("the guest could write")
			}
			if b, _ := os.ReadFile(ro); !bytes.HasPrefix(b, []byte("rrrrrrrr")) {
				t.Error("the file has changed")
			}
		}},
		{"rate limits hold, and change", testRateLimit},
		{"a grown disk is seen by the guest", func(t *testing.T, v *vmm) {
			if err := os.Truncate(rw, 24<<20); err != nil {
				t.Fatal(err)
			}
			v.must(t, fc.DriveUpdate{ID: "data", Path: rw})
			v.awaitSize(t, "vda", 24<<20)
		}},
		{"a disk can be exchanged for another", func(t *testing.T, v *vmm) {
			other := makeDisk(t, 32, 'o')
			v.must(t, fc.DriveUpdate{ID: "data", Path: other})
			v.awaitSize(t, "vda", 32<<20)
			v.mustAsk(t, "write /dev/vda new")
			if b, _ := os.ReadFile(other); !bytes.HasPrefix(b, []byte("newo")) {
				t.Error("the other file was not written")
			}
		}},
		{"randomness comes", func(t *testing.T, v *vmm) {
			if a, b := v.mustAsk(t, "rng"), v.mustAsk(t, "rng"); a == b || len(a) != 32 {
				t.Errorf("got %s and %s", a, b)
			}
		}},
		{"the balloon takes and tells", testBalloon},
		{"the guest's clock keeps time", testClock},
		{"a paused guest says nothing", testPause},
		{"metrics count the disks' bytes", func(t *testing.T, v *vmm) {
			v.must(t, fc.Action{Type: fc.FlushMetrics})
			b, err := os.ReadFile(v.cmd.Args[len(v.cmd.Args)-1])
			if err != nil || !strings.Contains(string(b), `"block_slow":{"read_bytes":`) || strings.Contains(string(b), `"block_slow":{"read_bytes":0`) {
				t.Errorf("metrics are %s, %v", b, err)
			}
		}},
		{"ctrl-alt-del reaches the guest, and its reboot is exit code 0", func(t *testing.T, v *vmm) {
			v.must(t, fc.Action{Type: fc.SendCtrlAltDel})
			if code := v.exit(t); code != 0 {
				t.Errorf("exit code %d", code)
			}
			if !strings.Contains(v.console.String(), "guest: ctrl-alt-del") {
				t.Error("the guest did not get the keys")
			}
		}},
	} {
		if !t.Run(test.name, func(t *testing.T) { test.run(t, v) }) && t.Failed() {
			select {
			case <-v.done:
				t.Fatal("the VMM is gone")
			default:
			}
		}
	}
}

// awaitSize waits until the guest sees a disk as that big; it is told by interrupt.
func (v *vmm) awaitSize(t *testing.T, disk string, want int) {
	t.Helper()
	var got int
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		sectors, _ := strconv.Atoi(v.mustAsk(t, "cat /sys/block/%s/size", disk))
		if got = sectors * 512; got == want {
			return
		}
	}
	t.Errorf("the guest sees %d bytes, want %d", got, want)
}

func testRateLimit(t *testing.T, v *vmm) {
	read := func(disk string) int {
		ms, _ := strconv.Atoi(v.mustAsk(t, "read /dev/%s %d", disk, 3<<20))
		return ms
	}
	free, limited := read("vda"), read("vdc")
	t.Logf("3 MiB: %d ms without limit, %d ms at 1 MiB/s", free, limited)
	if limited < 1800 || limited > 6000 && limited > 4*free {
		t.Errorf("3 MiB at 1 MiB/s took %d ms", limited)
	}
	v.must(t, fc.DriveUpdate{ID: "slow", RateLimiter: &fc.RateLimiter{Bandwidth: &fc.TokenBucket{}}})
	if off := read("vdc"); off > limited/2 {
		t.Errorf("3 MiB took %d ms without the limit, %d ms with it", off, limited)
	}
}

func testBalloon(t *testing.T, v *vmm) {
	await := func(mib uint64) {
		t.Helper()
		var s fc.BalloonStats
		for deadline := time.Now().Add(15 * time.Second); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
			var err error
			if s, err = v.client.BalloonStats(t.Context()); err != nil {
				t.Fatal(err)
			}
			if s.ActualMiB == mib && s.TargetMiB == mib && s.TotalMemory > 100<<20 && s.FreeMemory > 0 {
				return
			}
		}
		t.Errorf("balloon of %d MiB is %+v", mib, s)
	}
	await(16)
	v.must(t, fc.BalloonUpdate{AmountMiB: 32})
	await(32)
}

func testClock(t *testing.T, v *vmm) {
	clock := func() (guest, host int64, best time.Duration) {
		best = time.Hour
		for range 20 {
			start := time.Now()
			g, _ := strconv.ParseInt(v.mustAsk(t, "clock"), 10, 64)
			if took := time.Since(start); took < best {
				best, guest, host = took, g, start.Add(took/2).UnixNano()
			}
		}
		return guest, host, best
	}
	g0, h0, took0 := clock()
	time.Sleep(5 * time.Second)
	g1, h1, took1 := clock()
	drift := float64(g1-g0)/float64(h1-h0) - 1
	// A reading is good to half of what the best one took.
	most := float64(took0+took1)/2/float64(h1-h0) + 5e-4
	t.Logf("the guest's clock is %+.0f ppm off over %v, and may be %.0f", drift*1e6, time.Duration(h1-h0), most*1e6)
	if drift < -most || drift > most {
		t.Errorf("the guest's clock runs %f times as fast as ours", 1+drift)
	}
}

func testPause(t *testing.T, v *vmm) {
	v.mustAsk(t, "tick")
	v.console.awaitText(t, "tick 2\r\n")
	v.must(t, fc.VM{State: fc.Paused})
	// What it has said before may be under way. It would say something every 20 ms.
	before := v.console.String()
	for deadline, last := time.Now().Add(10*time.Second), time.Now(); time.Since(last) < 500*time.Millisecond; time.Sleep(10 * time.Millisecond) {
		if now := v.console.String(); now != before {
			before, last = now, time.Now()
		}
		if time.Now().After(deadline) {
			t.Fatalf("a paused guest goes on: %q", before)
		}
	}
	v.must(t, fc.VM{State: fc.Resumed})
	var n int
	fmt.Sscanf(before[strings.LastIndex(before[:len(before)-8], "tick "):], "tick %d", &n)
	v.console.awaitText(t, fmt.Sprintf("tick %d\r\n", n+3))
}

func TestConfigFileBootsABzImageWithoutAPI(t *testing.T) {
	f := needGuest(t)
	serial, config := filepath.Join(t.TempDir(), "log"), filepath.Join(t.TempDir(), "config")
	file := fmt.Sprintf(`{"boot-source":{"kernel_image_path":%q,"initrd_path":%q,"boot_args":%q},"drives":[],"machine-config":{"vcpu_count":1,"mem_size_mib":160}}`,
		f.bzImage, f.initrd, bootArguments)
	if err := os.WriteFile(config, []byte(file), 0o600); err != nil {
		t.Fatal(err)
	}
	v := startVMM(t, "--no-api", "--config-file", config, "--log-path", serial)
	v.console.awaitText(t, "guest: up")
	if _, err := os.Stat(v.socket); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("there is an API socket: %v", err)
	}
	v.cmd.Process.Signal(syscall.SIGTERM)
	if code := v.exit(t); code != exitTerminated {
		t.Errorf("exit code %d", code)
	}
}

// A kernel whose check of the first processor's APIC timer fails, as it does now and
// then on a busy host, gives that up. It must bring up the second one all the same.
func TestBootsWithoutTheAPICTimer(t *testing.T) {
	f := needGuest(t)
	v := startVMM(t)
	args := bootArguments + " noapictimer"
	v.must(t, fc.MachineConfig{VCPUCount: 2, MemSizeMiB: 160}, fc.BootSource{KernelPath: f.kernel, InitrdPath: f.initrd, BootArgs: &args},
		fc.Action{Type: fc.InstanceStart})
	v.console.awaitText(t, "guest: up")
}

func TestQEMUNeverOutlivesTheVMM(t *testing.T) {
	f := needGuest(t)
	for name, signal := range map[string]syscall.Signal{"SIGTERM": syscall.SIGTERM, "SIGKILL": syscall.SIGKILL} {
		t.Run(name, func(t *testing.T) {
			v := startVMM(t)
			args := bootArguments
			v.must(t, fc.BootSource{KernelPath: f.kernel, InitrdPath: f.initrd, BootArgs: &args}, fc.Action{Type: fc.InstanceStart})
			pidfd, err := unix.PidfdOpen(v.qemuPid(t), 0)
			if err != nil {
				t.Fatal(err)
			}
			defer unix.Close(pidfd)
			v.cmd.Process.Signal(signal)
			v.exit(t)
			if !gone(pidfd) {
				t.Error("QEMU is still there")
			}
		})
	}
}

func TestDeathOfQEMUIsAnError(t *testing.T) {
	f := needGuest(t)
	v := startVMM(t)
	args := bootArguments
	v.must(t, fc.BootSource{KernelPath: f.kernel, InitrdPath: f.initrd, BootArgs: &args}, fc.Action{Type: fc.InstanceStart})
	if err := syscall.Kill(v.qemuPid(t), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if code := v.exit(t); code != exitError {
		t.Errorf("exit code %d", code)
	}
}

func TestStartCanBeTriedAgain(t *testing.T) {
	f := needGuest(t)
	v := startVMM(t)
	args := bootArguments
	v.must(t,
		fc.BootSource{KernelPath: f.kernel, InitrdPath: f.initrd, BootArgs: &args},
		fc.Vsock{GuestCID: 3, UDSPath: filepath.Join(v.dir, "v.sock")},
		// More than any host has: QEMU refuses it.
		fc.MachineConfig{VCPUCount: 1, MemSizeMiB: 1 << 40},
	)
	var refused *fc.APIError
	if err := v.client.Do(t.Context(), fc.Action{Type: fc.InstanceStart}); !errors.As(err, &refused) || !strings.HasPrefix(refused.FaultMessage, "Start microvm error: qemu: ") {
		t.Fatalf("error is %v", err)
	}
	v.must(t, fc.MachineConfig{VCPUCount: 1, MemSizeMiB: 160}, fc.Action{Type: fc.InstanceStart})
	if info, err := v.client.InstanceInfo(t.Context()); err != nil || info.State != fc.StateRunning {
		t.Errorf("state %s, %v", info.State, err)
	}
}
