package jail

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestJail(t *testing.T) {
	needRoot(t)
	t.Setenv("SECRET", "of the helper")
	defer unix.Umask(unix.Umask(0o077)) // the helper's, no matter to the jail
	// A descriptor that the helper forgot to mark must not get in.
	leak, err := unix.Open("/", unix.O_RDONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(leak)

	s := newSpec(t, "")
	s.Disks = append(s.Disks, Disk{File: s.Disks[0].File, ReadOnly: true})
	s.Limits = Limits{FileBytes: 1 << 30}
	begin := time.Now()
	p := start(t, s)
	t.Logf("started in %v", time.Since(begin))
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
		{"arguments", v.Args, []string{"fake-vmm", ""}},
		{"environment", len(v.Env), 0},
		{"effective capabilities", v.CapEff, "0000000000000000"},
		{"bounding capabilities", v.CapBnd, "0000000000000000"},
		{"no new privileges", v.NoNewPriv, "1"},
		{"descriptors", v.FDs, []string{"0", "1", "2", "3"}}, // the last reads the directory
		{"limits", v.Limits, []uint64{2048, 1 << 30, 0}},
		{"umask", v.Umask, 0},
		{"host name", v.Hostname, "web"},
		{"kernel", v.Kernel, "a kernel"},
		{"writing to the root", v.RootWrite, "open /x: read-only file system"},
		{"writing to the kernel", v.KernelWrite, "open /kernel: permission denied"},
		{"writing to the disk", v.DiskWrite, "ok"},
		{"writing to the read-only disk", v.Disk1Write, "open /disk1: read-only file system"},
	} {
		if !reflect.DeepEqual(c.got, c.want) {
			t.Errorf("%s: %v, want %v", c.what, c.got, c.want)
		}
	}
	checkRoot(t, &v)
	for _, ns := range []string{"mnt", "pid", "ipc", "uts"} {
		own, _ := os.Readlink("/proc/self/ns/" + ns)
		its, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/%s", p.PID(), ns))
		if own == its || err != nil {
			t.Errorf("%s namespace %s, ours is %s, %v", ns, its, own, err)
		}
	}
	if got, _ := os.ReadFile(s.Disks[0].File.Name()); !strings.HasPrefix(string(got), "written by the VMM") {
		t.Errorf("disk holds %q on the host", got)
	}
	if _, err := os.Stat("/dev/net/tun"); err == nil && v.Tun != "ok" {
		t.Errorf("tun: %s", v.Tun)
	}
}

// checkRoot compares what is in the jail with what may be.
func checkRoot(t *testing.T, v *view) {
	t.Helper()
	may := []string{"bin", "dev", "disk0", "disk1", "etc", "kernel", "lib", "lib32", "lib64", "libx32", "nix", "gnu", "proc", "run", "sbin", "usr", "vmm"}
	for _, name := range v.Root {
		if !slices.Contains(may, name) {
			t.Errorf("/%s is in the jail", name)
		}
	}
	may = []string{"null", "zero", "full", "random", "urandom", "net", "fd", "stdin", "stdout", "stderr"}
	for _, name := range v.Dev {
		if !slices.Contains(may, name) {
			t.Errorf("/dev/%s is in the jail", name)
		}
	}
	for _, m := range v.Mounts {
		target, options, _ := strings.Cut(m, " ")
		has := func(o string) bool { return slices.Contains(strings.Split(options, ","), o) }
		if has("rw") && target != RunPath && target != "/disk0" {
			t.Errorf("%s is writable", target)
		}
		if !has("nosuid") {
			t.Errorf("%s is not nosuid", target)
		}
		if !has("nodev") && target != "/" {
			t.Errorf("%s is not nodev", target)
		}
	}
}

// leftNothing checks that a failed start has left nothing.
func leftNothing(t *testing.T, s *Spec) {
	t.Helper()
	if left := list(s.Parent); len(left) > 0 {
		t.Errorf("left in the parent: %v", left)
	}
	procs, _ := filepath.Glob("/proc/[0-9]*")
	for _, p := range procs {
		var st unix.Stat_t
		status, _ := os.ReadFile(p + "/stat")
		dead := strings.Contains(string(status), ") Z ") // an orphan that init has not reaped yet
		if unix.Stat(p, &st) == nil && int(st.Uid) == vmUID && !dead {
			t.Errorf("left running: %s", p)
		}
	}
}

func TestStartFails(t *testing.T) {
	needRoot(t)
	for _, test := range []struct {
		name   string
		mode   string
		change func(*Spec)
		want   string
		is     error
	}{
		{"VMM that dies is told with what it said", "die", nil, `exit status 3; the VMM said "cannot go on`, ErrExited},
		{"VMM without a socket times out", "silent", nil, "timed out", ErrWaitTimeout},
		{"link in place of the socket is not followed", "link", nil, "not a socket", nil},
		{"binary that is none", "", func(s *Spec) { s.Binary = notBinary(s) }, "execute /vmm: exec format error", nil},
		{"missing binary", "", func(s *Spec) { s.Binary = "/no/such" }, "no such file", os.ErrNotExist},
		{"disk that does not admit the VM", "", func(s *Spec) { s.Disks[0].File.Chmod(0o600) }, "check /disk0: mode 0600", nil},
		{"kernel that does not admit the VM", "", func(s *Spec) { s.Kernel.Chmod(0o400) }, "check /kernel: mode 0400", nil},
		{"parent that others can write", "", func(s *Spec) { os.Chmod(s.Parent, 0o777) }, "mode 0777", nil},
		{"parent of somebody else", "", func(s *Spec) { os.Chown(s.Parent, vmUID, vmUID) }, fmt.Sprint("uid ", vmUID), nil},
		{"parent that is a link", "", func(s *Spec) {
			os.Symlink(s.Parent, s.Parent+"-link")
			s.Parent += "-link"
		}, "not a directory", nil},
		{"uid 0", "", func(s *Spec) { s.UID = 0 }, "must be above zero", nil},
		{"bad id", "", func(s *Spec) { s.ID = "../web" }, "bad VM id", nil},
		{"too many disks", "", func(s *Spec) { s.Disks = make([]Disk, MaxDisks+1) }, "at most 16", nil},
		{"no arguments", "", func(s *Spec) { s.Args = nil }, "no arguments", nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := newSpec(t, test.mode)
			if test.change != nil {
				test.change(s)
			}
			timeout := 20 * time.Second
			if test.mode == "silent" {
				timeout = time.Second
			}
			ctx, cancel := context.WithTimeout(t.Context(), timeout)
			defer cancel()
			p, err := Start(ctx, s)
			if err == nil {
				p.Kill()
				t.Fatal("started")
			}
			if !strings.Contains(err.Error(), test.want) {
				t.Errorf("error %q, want %q", err, test.want)
			}
			if test.is != nil && !errors.Is(err, test.is) {
				t.Errorf("error %q is not %q", err, test.is)
			}
			leftNothing(t, s)
		})
	}
}

// notBinary makes a file that can be executed but is no program.
func notBinary(s *Spec) string {
	path := s.Log.Name() + "-binary"
	os.WriteFile(path, []byte("no program"), 0o755)
	return path
}

func TestStartCancelled(t *testing.T) {
	needRoot(t)
	s := newSpec(t, "silent")
	ctx, cancel := context.WithCancel(t.Context())
	cancelled := make(chan time.Time, 1)
	time.AfterFunc(300*time.Millisecond, func() { cancelled <- time.Now(); cancel() })
	_, err := Start(ctx, s)
	if !errors.Is(err, context.Canceled) || errors.Is(err, ErrWaitTimeout) {
		t.Errorf("error %v", err)
	}
	if d := time.Since(<-cancelled); d > 10*time.Second { // the VMM is silent for a minute
		t.Errorf("returned %v after it was cancelled", d)
	}
	leftNothing(t, s)
}

func TestLongParent(t *testing.T) {
	needRoot(t)
	s := newSpec(t, "")
	s.Parent = filepath.Join(s.Parent, strings.Repeat("long/", 40), "jails") // beyond a socket address
	if err := os.MkdirAll(s.Parent, 0o700); err != nil {
		t.Fatal(err)
	}
	p := start(t, s)
	if len(ask(t, p, "look")) == 0 {
		t.Error("no answer")
	}
	l, err := p.Listen(9)
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
}

// In a plain chroot there can be no jail, and who is told so can do something.
func TestPlainChroot(t *testing.T) {
	needRoot(t)
	root := t.TempDir()
	for _, dir := range []string{"dev", "jails"} {
		if err := os.Mkdir(filepath.Join(root, dir), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	for _, file := range []string{"kernel", "disk", "log"} {
		openFile(t, filepath.Join(root, file), "", 0o666)
	}
	program, err := os.ReadFile("/proc/self/exe")
	if err == nil {
		err = os.WriteFile(filepath.Join(root, "program"), program, 0o755)
	}
	if err == nil {
		err = unix.Mknod(filepath.Join(root, "dev/null"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3)))
	}
	if err != nil {
		t.Skipf("needs a chroot: %v", err)
	}
	mount := func(what, dir, kind string, flags uintptr) {
		t.Helper()
		err := os.MkdirAll(dir, 0o755)
		if err == nil {
			err = unix.Mount(what, dir, kind, flags, "")
		}
		if err != nil {
			t.Skipf("needs a chroot: %v", err)
		}
		t.Cleanup(func() { unix.Unmount(dir, unix.MNT_DETACH) })
	}
	mount("proc", filepath.Join(root, "proc"), "proc", 0)
	for _, dir := range []string{"/lib", "/lib64", "/usr"} { // where the tests are built with cgo
		if _, err := os.Stat(dir); err == nil {
			mount(dir, filepath.Join(root, dir), "", unix.MS_BIND)
		}
	}

	keep := func() string {
		cmd := exec.Command("/program")
		cmd.Args = []string{"fake-keeper", "/jails", "/kernel", "/disk", "/log", "die", fmt.Sprint(vmUID), "/program"}
		cmd.Dir, cmd.SysProcAttr = "/", &syscall.SysProcAttr{Chroot: root}
		out, err := cmd.CombinedOutput()
		return fmt.Sprintf("%s, %v", out, err)
	}
	if out := keep(); !strings.Contains(out, "not a mount point") || !strings.Contains(out, "mount --bind") {
		t.Errorf("it says %q", out)
	}
	mount(root, root, "", unix.MS_BIND|unix.MS_REC)
	if out := keep(); !strings.Contains(out, "the VMM said") || !strings.Contains(out, "cannot go on") {
		t.Errorf("where the advice was followed it says %q", out)
	}
}

func TestStageRefuses(t *testing.T) {
	if got := Stage([]string{"something"}); got != 2 {
		t.Errorf("with arguments: %d", got)
	}
}

func FuzzPlan(f *testing.F) {
	f.Add([]byte(`{"Hostname":"web","UID":1,"GID":1,"Args":["a"],"Files":[{"Target":"run","Dir":true}]}`))
	f.Add([]byte(`{`))
	f.Add([]byte(``))
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := decodePlan(b)
		if (p == nil) == (err == nil) {
			t.Errorf("plan %v, error %v", p, err)
		}
	})
}

// BenchmarkStart tells what a jail costs, with a VMM that listens at once.
func BenchmarkStart(b *testing.B) {
	needRoot(b)
	s := newSpec(b, "")
	for _, prepared := range []bool{false, true} {
		b.Run(fmt.Sprintf("prepared=%t", prepared), func(b *testing.B) {
			var starter Starter
			for b.Loop() {
				b.StopTimer()
				if prepared {
					starter.Prepare()
					time.Sleep(30 * time.Millisecond) // as the making of a disk does
				}
				b.StartTimer()
				p, err := starter.Start(b.Context(), s)
				if err != nil {
					b.Fatal(err)
				}
				b.StopTimer()
				p.Kill()
				p.gone()
				p.Release()
				b.StartTimer()
			}
		})
	}
}
