package vmm

import (
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"banger/fc"
	"banger/fc/server"
)

func TestFlags(t *testing.T) {
	tests := []struct {
		args string
		want flags
		err  string
	}{
		{"", flags{}, ""},
		{"--api-sock /run/api.sock --id vm-1", flags{apiSock: "/run/api.sock", id: "vm-1"}, ""},
		{"--config-file c --no-api --level Debug --show-level --show-log-origin --log-path l --metrics-path m",
			flags{configFile: "c", noAPI: true, level: "Debug", showLevel: true, showOrigin: true, logPath: "l", metricsPath: "m"}, ""},
		{"--no-seccomp --boot-timer --seccomp-filter f --start-time-us 1 --id=x",
			flags{id: "x", ignored: []string{"--no-seccomp", "--boot-timer", "--seccomp-filter", "--start-time-us"}}, ""},
		{"--module api_server", flags{module: "api_server", ignored: []string{"--module"}}, ""},
		{"--version", flags{version: true}, ""},
		{"--id", flags{}, "requires a value"},
		{"--id a --id b", flags{}, "more than once"},
		{"--id a_b", flags{}, "invalid id"},
		{"--id " + strings.Repeat("x", 65), flags{}, "invalid id"},
		{"--no-api", flags{}, "config-file"},
		{"--no-api=yes --config-file c", flags{}, "takes no value"},
		{"--level Loud", flags{}, "invalid log level"},
		{"--enable-pci", flags{}, "wasn't expected"},
		{"api-sock", flags{}, "wasn't expected"},
		{"-h", flags{}, "wasn't expected"},
	}
	for _, tt := range tests {
		t.Run(tt.args, func(t *testing.T) {
			got, err := parseFlags(strings.Fields(tt.args))
			if tt.err != "" {
				if err == nil || !strings.Contains(err.Error(), tt.err) {
					t.Errorf("error is %v, want %q", err, tt.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			defaults := map[*string]string{&tt.want.apiSock: "/run/firecracker.socket", &tt.want.id: "anonymous-instance", &tt.want.level: "Info"}
			for field, value := range defaults {
				if *field == "" {
					*field = value
				}
			}
			if !reflect.DeepEqual(got, tt.want) {
				t.Errorf("got  %+v\nwant %+v", got, tt.want)
			}
		})
	}
}

// FuzzFlags reads any command line: what is accepted obeys the rules.
func FuzzFlags(f *testing.F) {
	f.Add("--api-sock\n/run/api.sock\n--id\nvm-1")
	f.Add("--config-file=c\n--no-api\n--level\nOff")
	f.Fuzz(func(t *testing.T, line string) {
		got, err := parseFlags(strings.Split(line, "\n"))
		if err != nil {
			return
		}
		if len(got.id) < 1 || len(got.id) > 64 || strings.ContainsAny(got.id, ",= /\n") || got.noAPI && got.configFile == "" {
			t.Errorf("%q gave %+v", line, got)
		}
	})
}

func TestBootArgs(t *testing.T) {
	args := func(s string) *string { return &s }
	root := []fc.Drive{{ID: "a", IsRoot: true}}
	tests := []struct {
		name   string
		config fc.VMConfig
		khz    uint64
		want   string
	}{
		{"none given, under KVM", fc.VMConfig{}, 0, defaultBootArgs},
		{"empty stays empty", fc.VMConfig{BootSource: fc.BootSource{BootArgs: args("")}}, 0, ""},
		{"clocks when emulated", fc.VMConfig{BootSource: fc.BootSource{BootArgs: args("quiet")}}, 2000000,
			"quiet tsc_early_khz=2000000 lpj=20000000 tsc=reliable no_timer_check mitigations=off cryptomgr.notests"},
		{"the caller's own word stands", fc.VMConfig{BootSource: fc.BootSource{BootArgs: args("mitigations=auto tsc=unstable")}}, 5,
			"mitigations=auto tsc=unstable tsc_early_khz=5 lpj=50 no_timer_check cryptomgr.notests"},
		{"init's arguments stay at the end", fc.VMConfig{BootSource: fc.BootSource{BootArgs: args("quiet -- tsc=x")}, Drives: root}, 5,
			"quiet root=/dev/vda rw tsc_early_khz=5 lpj=50 tsc=reliable no_timer_check mitigations=off cryptomgr.notests -- tsc=x"},
		{"root by id, read-only", fc.VMConfig{BootSource: fc.BootSource{BootArgs: args("a")}, Drives: []fc.Drive{{IsRoot: true, PartUUID: "1-2", ReadOnly: true}}}, 0,
			"a root=PARTUUID=1-2 ro"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := bootArgs(tt.config, tt.khz); got != tt.want {
				t.Errorf("got  %q\nwant %q", got, tt.want)
			}
		})
	}
}

func TestThrottle(t *testing.T) {
	tests := []struct {
		name   string
		bucket *fc.TokenBucket
		want   throttle
	}{
		{"none", nil, throttle{}},
		{"switched off", &fc.TokenBucket{Size: 5}, throttle{}},
		{"filled each second", &fc.TokenBucket{Size: 1000, RefillMillis: 1000}, throttle{average: 1000}},
		{"filled often", &fc.TokenBucket{Size: 1000, RefillMillis: 100}, throttle{average: 10000}},
		{"filled slowly may be emptied at once", &fc.TokenBucket{Size: 1000, RefillMillis: 10000}, throttle{average: 100, burst: 1000}},
		{"less than one per second is one", &fc.TokenBucket{Size: 1, RefillMillis: 60000}, throttle{average: 1}},
		{"more than there can be", &fc.TokenBucket{Size: 1 << 63, RefillMillis: 1}, throttle{average: 1e15, burst: 1e15}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := throttleOf(tt.bucket); got != tt.want {
				t.Errorf("got %+v, want %+v", got, tt.want)
			}
		})
	}
}

func TestTSCClockAgreesWithItself(t *testing.T) {
	clock := startTSCClock()
	short := clock.kHz()
	time.Sleep(200 * time.Millisecond)
	long := clock.kHz()
	t.Logf("%d kHz over 10 ms, %d over 200 ms", short, long)
	if off := float64(short)/float64(long) - 1; off > 1e-4 || off < -1e-4 {
		t.Errorf("the short measurement is %.0f ppm off", off*1e6)
	}
	if long < 100_000 || long > 20_000_000 {
		t.Errorf("%d kHz is no speed of a CPU", long)
	}
}

func TestPrepareRefusesWhatCannotBe(t *testing.T) {
	dir := t.TempDir()
	text := filepath.Join(dir, "text")
	if err := os.WriteFile(text, []byte("#!/bin/sh\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	limit := &fc.RateLimiter{Ops: &fc.TokenBucket{Size: 1, RefillMillis: 1}}
	tests := []struct {
		name        string
		request     fc.Request
		unsupported bool
	}{
		{"kernel that is a script", fc.BootSource{KernelPath: text}, false},
		{"kernel that is a directory", fc.BootSource{KernelPath: dir}, false},
		{"disk that is a directory", fc.Drive{ID: "a", Path: dir, ReadOnly: true}, false},
		{"disk that is a character device", fc.Drive{ID: "a", Path: "/dev/null"}, false},
		{"disk by vhost-user", fc.Drive{ID: "a", Socket: "/s"}, true},
		{"tap with a name too long", fc.NetworkInterface{ID: "n", HostDevName: strings.Repeat("t", 16)}, false},
		{"network limit", fc.NetworkInterface{ID: "n", HostDevName: "t", TxRateLimiter: limit}, true},
		{"entropy limit in operations", fc.Entropy{RateLimiter: limit}, true},
		{"serial limit", fc.Serial{RateLimiter: limit.Ops}, true},
		{"CPU template", fc.MachineConfig{VCPUCount: 1, MemSizeMiB: 1, CPUTemplate: "T2"}, true},
		{"snapshot", fc.SnapshotLoad{}, true},
		{"vsock in no directory", fc.Vsock{GuestCID: 3, UDSPath: filepath.Join(dir, "no", "v.sock")}, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			log, err := newLogger(flags{level: "Off"})
			if err != nil {
				t.Fatal(err)
			}
			m := newMachine("test", log, nil)
			defer m.close()
			err = m.Prepare(t.Context(), tt.request)
			if err == nil {
				t.Fatal("no error")
			}
			if _, is := errors.AsType[server.Unsupported](err); is != tt.unsupported {
				t.Errorf("error is %v", err)
			}
		})
	}
}

func TestLogGoesWhereItIsSent(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	log, err := newLogger(flags{id: "vm-1", level: "Off"})
	if err != nil {
		t.Fatal(err)
	}
	log.Error("unheard")
	show := true
	if err := log.configure(fc.Logger{Path: path, Level: "Warn", ShowLevel: &show}); err != nil {
		t.Fatal(err)
	}
	log.Info("unheard too")
	log.Warn("heard", "n", 1)
	b, err := os.ReadFile(path)
	if err != nil || strings.Count(string(b), "\n") != 1 || !strings.Contains(string(b), "level=WARN msg=heard id=vm-1 n=1") {
		t.Errorf("log is %q, %v", b, err)
	}
}

// A log that is sent elsewhere keeps no file open behind it.
func TestFormerLogIsClosed(t *testing.T) {
	log, err := newLogger(flags{id: "vm-1", level: "Info"})
	if err != nil {
		t.Fatal(err)
	}
	former := filepath.Join(t.TempDir(), "former")
	for _, path := range []string{former, os.DevNull} {
		if err := log.configure(fc.Logger{Path: path}); err != nil {
			t.Fatal(err)
		}
	}
	fds, err := filepath.Glob("/proc/self/fd/*")
	if err != nil {
		t.Fatal(err)
	}
	for _, fd := range fds {
		if to, _ := os.Readlink(fd); to == former {
			t.Errorf("%s is still open", former)
		}
	}
}
