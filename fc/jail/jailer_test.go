package jail

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// jailerVariable names a real jailer for the tests of this package.
const jailerVariable = "BANGER_JAILER"

// static reports whether the test binary, which plays the VMM, can run in a jail that
// has no loader.
func static(t *testing.T) bool {
	t.Helper()
	self, err := os.Open("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	defer self.Close()
	return !dynamic(self)
}

// TestJailer: what a VMM sees that Firecracker's jailer has started; with a stand-in,
// and with the real one where there is one.
func TestJailer(t *testing.T) {
	needRoot(t)
	if !static(t) {
		t.Skip("needs a test binary without a loader: CGO_ENABLED=0")
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	t.Run("stand-in", func(t *testing.T) { testJailer(t, self) })
	t.Run("real", func(t *testing.T) {
		real := os.Getenv(jailerVariable)
		if real == "" {
			t.Skip("needs Firecracker's jailer: name one in " + jailerVariable)
		}
		testJailer(t, real)
	})
}

func testJailer(t *testing.T, jailer string) {
	dev, _, there := loopDevice(t)
	s := newSpec(t, "")
	s.Jailer = jailer
	s.Disks = append(s.Disks, Disk{File: s.Disks[0].File, ReadOnly: true}, Disk{File: dev})
	s.Limits = Limits{FileBytes: 1 << 30, Files: 3000}
	p := start(t, s)
	if err := dev.Close(); err != nil {
		t.Fatal(err)
	}
	var v view
	if err := json.Unmarshal(ask(t, p, "look"), &v); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		what      string
		got, want any
	}{
		{"uid", v.UID, vmUID},
		{"gid", v.GID, vmUID},
		{"groups", len(v.Groups), 0},
		{"pid", v.PID, 1},
		{"session", v.Session, 1},
		{"environment", len(v.Env), 0},
		{"limits", v.Limits, []uint64{3000, 1 << 30, 0}},
		{"umask", v.Umask, 0},
		{"host name", v.Hostname, "web"},
		{"kernel", v.Kernel, "a kernel"},
		{"writing to the kernel", v.KernelWrite, "open /kernel: permission denied"},
		{"writing to the disk", v.DiskWrite, "ok"},
		{"writing to the read-only disk", v.Disk1Write, "open /disk1: read-only file system"},
		{"capabilities", v.Capabilities, [3]uint64{}},
		{"standard input", v.Input, "EOF"},
	} {
		if !reflect.DeepEqual(c.got, c.want) {
			t.Errorf("%s: %v, want %v", c.what, c.got, c.want)
		}
	}
	// Of the host and of the outer jail there is nothing.
	may := []string{"dev", "disk0", "disk1", "disk2", "kernel", "run", "vmm", "vmm.pid", "x"}
	for _, name := range v.Root {
		if !slices.Contains(may, name) {
			t.Errorf("/%s is in the jail", name)
		}
	}
	if _, err := os.Stat("/dev/net/tun"); err == nil && v.Tun != "ok" {
		t.Errorf("tun: %s", v.Tun)
	}
	if mounts, err := os.ReadFile(fmt.Sprintf("/proc/%d/mountinfo", p.PID())); err != nil || strings.Contains(string(mounts), " /jails") {
		t.Errorf("the VMM has the mounts\n%s%v", mounts, err)
	}
	// No jailer takes them out of the bounding set: nothing there can use them.
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.PID()))
	var bounding uint64
	for _, c := range jailerCapabilities {
		bounding |= 1 << c
	}
	for _, line := range []string{"NoNewPrivs:\t1\n", fmt.Sprintf("CapBnd:\t%016x\n", bounding), "CapInh:\t0000000000000000\n"} {
		if err != nil || !strings.Contains(string(status), line) {
			t.Errorf("no %q in\n%s%v", line, status, err)
		}
	}
	// The device is there as long as the VMM is.
	if !there() {
		t.Error("the device has gone with our descriptor")
	}
	if err := errors.Join(p.Kill(), p.gone()); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(5 * time.Second); there() && time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
	}
	if there() {
		t.Error("the device has outlived the VMM")
	}
	if err := p.Release(); err != nil {
		t.Error(err)
	}
	leftNothing(t, s)
}

// A jailer that fails, or is none, is told by what it said.
func TestJailerFails(t *testing.T) {
	needRoot(t)
	if !static(t) {
		t.Skip("needs a test binary without a loader: CGO_ENABLED=0")
	}
	for want, change := range map[string]func(*Spec){
		"no such file":      func(s *Spec) { s.Jailer = "/nonexistent/jailer" },
		"is not absolute":   func(s *Spec) { s.Jailer = "jailer" },
		"gives --id itself": func(s *Spec) { s.Args = append(s.Args, "--id", "web") },
		"takes no VMM":      func(s *Spec) { s.System = true },
		"one device on, not several": func(s *Spec) {
			a, _, _ := loopDevice(t)
			b, _, _ := loopDevice(t)
			s.Disks = append(s.Disks, Disk{File: a}, Disk{File: b})
		},
		"needs a loader":                func(s *Spec) { s.Binary = notBinary(s) },
		"exec format error":             func(s *Spec) { s.Jailer = notBinary(s) },
		"no mode \\\"sulk\\\" is known": func(s *Spec) { s.Args[1] = "sulk" },
	} {
		t.Run(want, func(t *testing.T) {
			s := newSpec(t, "")
			self, err := os.Executable()
			if err != nil {
				t.Fatal(err)
			}
			s.Jailer = self
			change(s)
			p, err := Start(within(t, 10*time.Second), s)
			if err == nil {
				p.Kill()
				t.Fatal("it has started")
			}
			if !strings.Contains(err.Error(), want) {
				t.Errorf("%v, want %q", err, want)
			}
			leftNothing(t, s)
		})
	}
}

// fakeJailer does what Firecracker's jailer does: see src/jailer there.
func fakeJailer(args []string) error {
	f := flag.NewFlagSet("jailer", flag.ContinueOnError)
	id, program := f.String("id", "", ""), f.String("exec-file", "", "")
	base, limit := f.String("chroot-base-dir", "", ""), f.String("resource-limit", "", "")
	uid, gid := f.Int("uid", 0, ""), f.Int("gid", 0, "")
	if err := f.Parse(args); err != nil {
		return err
	}
	if slices.Contains(f.Args(), "sulk") {
		return errors.New("no mode \"sulk\" is known")
	}
	root := filepath.Join(*base, filepath.Base(*program), *id, "root")
	var files uint64
	if _, err := fmt.Sscanf(*limit, "no-file=%d", &files); err != nil {
		return err
	}
	copied := filepath.Join(root, filepath.Base(*program))
	steps := []func() error{
		func() error { return unix.CloseRange(3, ^uint(0), unix.CLOSE_RANGE_CLOEXEC) },
		func() error { return os.MkdirAll(root, 0o755) },
		func() error { return copyProgram(*program, copied) },
		func() error { return os.Chown(copied, *uid, *gid) },
		func() error { return unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: files, Max: files}) },
		func() error { return unix.Unshare(unix.CLONE_NEWNS) },
		func() error { return unix.Mount("", "/", "", unix.MS_SLAVE|unix.MS_REC, "") },
		func() error { return unix.Mount(root, root, "", unix.MS_BIND|unix.MS_REC, "") },
		func() error { return unix.Chdir(root) },
		func() error { return unix.Mkdir("old_root", 0o600) },
		func() error { return unix.PivotRoot(".", "old_root") },
		func() error { return unix.Chdir("/") },
		func() error { return unix.Unmount("old_root", unix.MNT_DETACH) },
		func() error { return unix.Rmdir("old_root") },
	}
	for _, dir := range []string{"/", "/dev", "/dev/net", "/run"} {
		steps = append(steps,
			func() error { return os.MkdirAll(dir, 0o700) },
			func() error { return os.Chmod(dir, 0o700) },
			func() error { return os.Chown(dir, *uid, *gid) })
	}
	for name, minor := range map[string]uint32{"/dev/net/tun": 200, "/dev/kvm": 232} {
		steps = append(steps,
			func() error { return unix.Mknod(name, unix.S_IFCHR|0o600, int(unix.Mkdev(10, minor))) },
			func() error { return os.Chown(name, *uid, *gid) })
	}
	steps = append(steps,
		func() error {
			return os.WriteFile(filepath.Join("/", filepath.Base(*program)+".pid"), []byte("1"), 0o666)
		},
		func() error { return unix.Setgroups(nil) },
		func() error { return unix.Setresgid(*gid, *gid, *gid) },
		func() error { return unix.Setresuid(*uid, *uid, *uid) },
		func() error {
			name := filepath.Join("/", filepath.Base(*program))
			own := []string{name, "--id", *id, "--start-time-us", "1", "--start-time-cpu-us", "1", "--parent-cpu-time-us", "1"}
			return unix.Exec(name, append(own, f.Args()...), nil)
		})
	for i, step := range steps {
		if err := step(); err != nil {
			return fmt.Errorf("step %d: %w", i, err)
		}
	}
	return nil
}

func copyProgram(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o755)
	if err != nil {
		return err
	}
	defer out.Close()
	_, err = io.Copy(out, in)
	return err
}
