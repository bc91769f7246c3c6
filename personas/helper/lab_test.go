package helper

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"banger/fc/jail"
	"banger/netns"
	"banger/ops"
	"banger/store/disk/cow"
)

// The test binary plays all the parts: argv[0] picks one, as in the real
// program. The tests themselves run in a network and a mount namespace of their
// own, which stand for a host and go with them.
func TestMain(m *testing.M) {
	switch os.Args[0] {
	case jail.StageName:
		os.Exit(jail.Stage(os.Args[1:]))
	case "banger-vmm":
		fakeVMM()
	case "fake-helper":
		fakeHelper(os.Args[1:])
	}
	if os.Geteuid() != 0 || os.Getenv("HELPER_TEST_APART") != "" {
		os.Exit(m.Run())
	}
	// By name: what is executed by its link keeps its mount of the former namespace.
	exe, err := os.Executable()
	if err != nil {
		fmt.Fprintln(os.Stderr, "run tests apart:", err)
		os.Exit(1)
	}
	cmd := exec.Command(exe, os.Args[1:]...)
	cmd.Env = append(os.Environ(), "HELPER_TEST_APART=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: unix.CLONE_NEWNS | unix.CLONE_NEWNET}
	if err := cmd.Run(); err != nil {
		var exit *exec.ExitError
		if !errors.As(err, &exit) {
			fmt.Fprintln(os.Stderr, "run tests apart:", err)
		}
		os.Exit(1)
	}
	os.Exit(0)
}

// fakeVMM serves its sockets, or behaves as its kernel says.
func fakeVMM() {
	kernel, _ := os.ReadFile(jail.KernelPath)
	switch mode, _, _ := strings.Cut(string(kernel), " "); mode {
	case "die":
		fmt.Println("cannot go on")
		os.Exit(3)
	case "flood": // much faster than any serial line
		go func() {
			block := bytes.Repeat([]byte("x"), 1<<20)
			for ; ; time.Sleep(20 * time.Millisecond) {
				os.Stdout.Write(block)
			}
		}()
	case "slow":
		time.Sleep(3 * time.Second)
	case "silent":
		time.Sleep(time.Minute)
	}
	fmt.Println("serving") // before it does: who started it reads the log at once
	for _, path := range []string{"/run/vmm/v.sock", jail.APISocket} {
		if _, err := net.Listen("unix", path); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
	}
	time.Sleep(time.Minute)
	os.Exit(0)
}

// testOwner is whom the helper serves in tests: some user.
var testOwner = owner{uid: 61234, gid: 61234}

// testUIDs are the VMs' uids in tests: not those of VMs that run on the machine.
const testUIDs = vmUIDs + 0x10000

// lab is a helper's operations over real namespaces, taps, jails and processes.
type lab struct {
	*machines
	dir string
}

// newLab makes a host with a helper on it, or skips.
func newLab(t testing.TB) *lab {
	t.Helper()
	needRoot(t)
	if _, err := os.Stat("/dev/net/tun"); err != nil {
		t.Skipf("needs TUN devices: %v", err)
	}
	dir := t.TempDir()
	must(t, os.Chmod(dir, 0o755))
	for _, d := range []string{"vms", "jails", "logs", "kernels", "bin", "disks"} {
		must(t, os.Mkdir(filepath.Join(dir, d), 0o711))
	}
	// A program to be found; the fake VMM starts none.
	must(t, os.WriteFile(filepath.Join(dir, "bin", "qemu-system-x86_64"), []byte("#!/bin/false\n"), 0o755))
	t.Setenv("PATH", filepath.Join(dir, "bin"))
	network, err := netns.Ensure(t.Context(), netns.Config{})
	must(t, err)
	l := &lab{machines: newMachines(t, dir, network), dir: dir}
	t.Cleanup(func() {
		l.spare.Relax()
		for _, r := range l.table.all() {
			if err := r.with(context.Background(), func() error { return l.clear(context.Background(), r) }); err != nil {
				t.Errorf("clean up: %v", err)
			}
		}
		if err := network.Remove(context.Background()); err != nil {
			t.Errorf("clean up: %v", err)
		}
		network.Close()
	})
	return l
}

func newMachines(t testing.TB, dir string, network *netns.Namespace) *machines {
	t.Helper()
	table, err := loadTable(filepath.Join(dir, "vms"), slog.New(slog.DiscardHandler))
	must(t, err)
	spare := &jail.Starter{}
	return &machines{
		owner: testOwner, spare: spare, table: table, kernels: &kernels{dir: filepath.Join(dir, "kernels")}, net: network,
		jails: filepath.Join(dir, "jails"), logs: filepath.Join(dir, "logs"), baseUID: testUIDs, startVMM: withSnapshots(spare.Start),
		log: slog.New(slog.DiscardHandler), snapshots: cow.Loaded, bangerVMM: "/proc/self/exe",
	}
}

// restart is what a new helper finds after the former one was killed.
func (l *lab) restart(t testing.TB) {
	t.Helper()
	for _, r := range l.table.all() {
		if p := r.process.Load(); p != nil {
			must(t, p.Close())
		}
	}
	l.spare.Relax()
	l.machines = newMachines(t, l.dir, l.net)
	must(t, l.adopt(t.Context()))
}

// reserve takes a slot by a request of its own.
func (l *lab) reserved(t testing.TB, request string) *reservation {
	t.Helper()
	r, err := l.table.reserve(request)
	must(t, err)
	return r
}

// kernel keeps content as a kernel and returns its digest.
func (l *lab) kernel(t testing.TB, content string) string {
	t.Helper()
	f := ownFile(t, filepath.Join(l.dir, "disks"), content, os.O_RDONLY)
	sum := sha256.Sum256([]byte(content))
	digest := hex.EncodeToString(sum[:])
	must(t, l.kernels.put(t.Context(), digest, f))
	return digest
}

// disk is a new disk of the owner's, open for writing.
func (l *lab) disk(t testing.TB) *os.File {
	return ownFile(t, filepath.Join(l.dir, "disks"), strings.Repeat("\x00", 4096), os.O_RDWR)
}

// run starts the VM of r as request, and closes what comes back.
func (l *lab) run(t testing.TB, r *reservation, request, kernel string, disks ...*os.File) (ops.VMStartReply, error) {
	t.Helper()
	reply, files, err := l.start(t.Context(), &ops.Call{ID: request, Files: disks}, l.args(t, r, kernel))
	if err == nil && len(files) != ops.VMStart.FilesOut {
		t.Errorf("got %d descriptors, want %d", len(files), ops.VMStart.FilesOut)
	}
	for _, f := range files {
		f.Close()
	}
	return reply, err
}

func (l *lab) args(t testing.TB, r *reservation, kernel string) ops.VMStartArgs {
	t.Helper()
	digest := l.kernel(t, kernel)
	return ops.VMStartArgs{Handle: r.rec.Handle, Kernel: digest, Initrd: digest, VMM: ops.QEMU, Net: ops.NetInternet, MemMiB: 128, CPUs: 1}
}

func (l *lab) handle(r *reservation) ops.HandleArgs { return ops.HandleArgs{Handle: r.rec.Handle} }

// wantNothing fails where anything of a VM is left, but for reservations.
func (l *lab) wantNothing(t testing.TB) {
	t.Helper()
	if left := list(t, l.jails); len(left) > 0 {
		t.Errorf("jails are left: %v", left)
	}
	taps, err := l.net.Taps(t.Context())
	must(t, err)
	if len(taps) > 0 {
		t.Errorf("taps are left: %v", taps)
	}
	if len(l.table.claims) > 0 {
		t.Errorf("claims are left: %v", l.table.claims)
	}
	if n := l.running(); n > 0 {
		t.Errorf("%d VMs run", n)
	}
	for slot := range 4 { // a stage ends a moment after the helper that began it
		eventually(t, "the end of all processes", func() bool { return len(processesOf(t, testUIDs+slot)) == 0 })
	}
}

// eventually waits for what happens in another process, without an event.
func eventually(t testing.TB, what string, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !is(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("waited in vain for ", what)
		}
	}
}

// processesOf lists the processes of a uid.
func processesOf(t testing.TB, uid int) (pids []string) {
	t.Helper()
	for _, name := range list(t, "/proc") {
		info, err := os.Stat(filepath.Join("/proc", name))
		if err == nil && info.Sys().(*syscall.Stat_t).Uid == uint32(uid) && strings.Trim(name, "0123456789") == "" {
			pids = append(pids, name)
		}
	}
	return pids
}

func list(t testing.TB, dir string) (names []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	must(t, err)
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

// ownFile is a new file of the owner's with some content.
func ownFile(t testing.TB, dir, content string, flags int) *os.File {
	t.Helper()
	f, err := os.CreateTemp(dir, "file-")
	must(t, err)
	_, err = io.WriteString(f, content)
	must(t, err)
	must(t, f.Chown(testOwner.uid, testOwner.gid))
	must(t, f.Close())
	return open(t, f.Name(), flags)
}

func open(t testing.TB, path string, flags int) *os.File {
	t.Helper()
	f, err := os.OpenFile(path, flags, 0)
	must(t, err)
	t.Cleanup(func() { f.Close() })
	return f
}

func needRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: gives files to others, makes namespaces and jails")
	}
	if os.Getenv("HELPER_TEST_RUN") == "" {
		if err := unix.Mount("none", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
			t.Skipf("needs a mount namespace: %v", err)
		}
		must(t, unix.Mount("tmpfs", "/run", "tmpfs", 0, "mode=0755"))
		os.Setenv("HELPER_TEST_RUN", "1")
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// wantCode fails unless err is a refusal of this kind.
func wantCode(t testing.TB, err error, code ops.Code) {
	t.Helper()
	if !errors.Is(err, &ops.Error{Code: code}) {
		t.Errorf("got %v, want a refusal as %s", err, code)
	}
}
