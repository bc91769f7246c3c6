package helper

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"banger/fc/jail"
	"banger/netns"
	"banger/ops"
)

// A VM from reserve to release, with what it has on the host at each step.
func TestLifeOfMachine(t *testing.T) {
	l := newLab(t)
	r := l.reserved(t, "a")
	disk := l.disk(t)
	must(t, disk.Truncate(1<<30))
	reply, err := l.run(t, r, "start-1", "ok", disk)
	must(t, err)
	if reply.PID == 0 || reply.Tap != "tap0" || reply.MTU != l.net.MTU() || l.running() != 1 {
		t.Errorf("got %+v, %d run", reply, l.running())
	}
	taps, err := l.net.Taps(t.Context())
	must(t, err)
	if len(taps) != 1 || taps[0].VMID != r.rec.ID || taps[0].UID != testUIDs {
		t.Errorf("taps are %+v", taps)
	}
	if pids := processesOf(t, testUIDs); len(pids) == 0 {
		t.Error("nobody runs as the VM's uid")
	}
	// No file of its can be larger than its memory, or its largest disk.
	limits, err := os.ReadFile(fmt.Sprintf("/proc/%d/limits", reply.PID))
	must(t, err)
	if want := fmt.Sprint(1 << 30); !regexp.MustCompile(`Max file size +` + want + ` +` + want + ` `).Match(limits) {
		t.Errorf("want files of %s bytes at most, the limits are\n%s", want, limits)
	}
	// The same request is the same start, another one is refused.
	again, err := l.run(t, r, "start-1", "ok", disk)
	must(t, err)
	if again != reply {
		t.Errorf("the same request got %+v, then %+v", reply, again)
	}
	_, err = l.run(t, r, "start-2", "ok", l.disk(t))
	wantCode(t, err, ops.Conflict)
	_, files, err := l.reconnect(t.Context(), nil, l.handle(r))
	must(t, err)
	if len(files) != ops.VMReconnect.FilesOut {
		t.Errorf("got %d descriptors", len(files))
	}
	for _, f := range files {
		f.Close()
	}
	for range 2 { // a VM that does not run is stopped
		_, _, err = l.stop(t.Context(), nil, l.handle(r))
		must(t, err)
		l.wantNothing(t)
	}
	_, _, err = l.reconnect(t.Context(), nil, l.handle(r))
	wantCode(t, err, ops.Conflict)
	_, err = l.run(t, r, "start-3", "ok", disk)
	must(t, err)
	for range 2 { // what is gone is released
		_, _, err = l.release(t.Context(), nil, l.handle(r))
		must(t, err)
	}
	l.wantNothing(t)
	if left := append(list(t, filepath.Join(l.dir, "vms")), list(t, l.logs)...); len(left) > 0 {
		t.Errorf("left %v", left)
	}
	_, _, err = l.start(t.Context(), &ops.Call{ID: "start-4", Files: []*os.File{disk}}, l.args(t, r, "ok"))
	wantCode(t, err, ops.NotFound)
}

// TestSeal: only a VM that runs is sealed, again is nothing, and to stop it removes all.
func TestSeal(t *testing.T) {
	l := newLab(t)
	r := l.reserved(t, "reserve-1")
	seal := func() error {
		_, _, err := l.seal(t.Context(), nil, l.handle(r))
		return err
	}
	wantCode(t, seal(), ops.Conflict)
	_, err := l.run(t, r, "start-1", "ok", l.disk(t))
	must(t, err)
	for range 2 {
		must(t, seal())
	}
	info, err := os.Stat(filepath.Join(r.process.Load().Record().Dir, "run"))
	must(t, err)
	if uid := info.Sys().(*syscall.Stat_t).Uid; uid != 0 || info.Mode().Perm() != 0o711 {
		t.Errorf("it belongs to uid %d with mode %04o", uid, info.Mode().Perm())
	}
	_, _, err = l.stop(t.Context(), nil, l.handle(r))
	must(t, err)
	l.wantNothing(t)
	wantCode(t, seal(), ops.Conflict)
	_, _, err = l.release(t.Context(), nil, l.handle(r))
	must(t, err)
	wantCode(t, seal(), ops.NotFound)
}

// A start begins with the reservation, and a VM that is never started leaves
// nothing of that.
func TestReservedVMIsReadyToStart(t *testing.T) {
	l := newLab(t)
	stages := func() (pids []string) {
		for _, pid := range processesOf(t, 0) {
			argv, _ := os.ReadFile("/proc/" + pid + "/cmdline")
			stat, _ := os.ReadFile("/proc/" + pid + "/stat")
			ours := strings.Contains(string(stat), fmt.Sprintf(" %d ", os.Getpid()))
			if ours && strings.TrimRight(string(argv), "\x00") == jail.StageName {
				pids = append(pids, pid)
			}
		}
		return pids
	}
	reserve := func(request string) ops.HandleArgs {
		reply, _, err := l.reserve(t.Context(), &ops.Call{ID: request}, ops.None{})
		must(t, err)
		// The kernel tells its arguments a moment after it is executed.
		eventually(t, "one stage", func() bool { return len(stages()) == 1 })
		return ops.HandleArgs{Handle: reply.Handle}
	}
	ended := func(a ops.HandleArgs) {
		_, _, err := l.release(t.Context(), nil, a)
		must(t, err)
		if left := stages(); len(left) > 0 {
			t.Errorf("stages are left: %v", left)
		}
		l.wantNothing(t)
	}
	ended(reserve("a"))

	a := reserve("b")
	waits := stages()[0]
	reply, err := l.run(t, l.table.handles[a.Handle], "start", "ok", l.disk(t))
	must(t, err)
	if fmt.Sprint(reply.PID) != waits {
		t.Errorf("the VMM is process %d, and %s was ready", reply.PID, waits)
	}
	ended(a)
}

// Whatever refuses a start, nothing of it stays, and the VM can be started.
func TestFailedStartLeavesNothing(t *testing.T) {
	l := newLab(t)
	r := l.reserved(t, "a")
	foreign := l.disk(t)
	must(t, foreign.Chown(0, 0))
	busy := l.disk(t)
	other := l.reserved(t, "b")
	_, err := l.run(t, other, "start", "ok", busy)
	must(t, err)
	for name, c := range map[string]struct {
		kernel string
		disk   *os.File
		change func(*ops.VMStartArgs)
		want   ops.Code // empty: any error
	}{
		"foreign disk":      {"ok", foreign, nil, ops.Invalid},
		"disk of another":   {"ok", busy, nil, ops.Conflict},
		"unknown kernel":    {"ok", l.disk(t), func(a *ops.VMStartArgs) { a.Kernel = strings.Repeat("0", 64) }, ops.NotFound},
		"unknown initrd":    {"ok", l.disk(t), func(a *ops.VMStartArgs) { a.Initrd = strings.Repeat("0", 64) }, ops.NotFound},
		"VMM is not there":  {"ok", l.disk(t), func(a *ops.VMStartArgs) { a.VMM = ops.Firecracker }, ""},
		"VMM dies at once":  {"die", l.disk(t), nil, ""},
		"VMM without a tap": {"die", l.disk(t), func(a *ops.VMStartArgs) { a.Net = ops.NetNone }, ""},
	} {
		t.Run(name, func(t *testing.T) {
			args := l.args(t, r, c.kernel)
			if c.change != nil {
				c.change(&args)
			}
			_, _, err := l.start(t.Context(), &ops.Call{ID: "start-" + name, Files: []*os.File{c.disk}}, args)
			if err == nil || c.want != "" && !errors.Is(err, &ops.Error{Code: c.want}) {
				t.Errorf("got %v, want a refusal as %q", err, c.want)
			}
			if n := len(list(t, l.jails)); n != 1 {
				t.Errorf("%d jails, want that of the other VM", n)
			}
			if taps, _ := l.net.Taps(t.Context()); len(taps) != 1 {
				t.Errorf("taps are %v, want that of the other VM", taps)
			}
			if len(r.rec.Disks) > 0 || len(l.table.claims) != 1 {
				t.Errorf("claims are %v", l.table.claims)
			}
		})
	}
	_, err = l.run(t, r, "start-at-last", "ok", l.disk(t))
	must(t, err)
}

// A VMM that does not come up ends with the time of the operation.
func TestSilentMachineEndsWithItsTime(t *testing.T) {
	l := newLab(t)
	r := l.reserved(t, "a")
	args, disk := l.args(t, r, "silent"), l.disk(t)
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
	defer cancel()
	_, _, err := l.start(ctx, &ops.Call{ID: "start", Files: []*os.File{disk}}, args)
	if !errors.Is(err, jail.ErrWaitTimeout) {
		t.Errorf("got %v, want a timeout", err)
	}
	l.wantNothing(t)
}

// While a VM starts others are counted, listed and started; stop waits for it.
func TestStopWhileStarting(t *testing.T) {
	l := newLab(t)
	r := l.reserved(t, "a")
	args, disk := l.args(t, r, "slow"), l.disk(t)
	started := make(chan error, 1)
	go func() {
		_, files, err := l.start(t.Context(), &ops.Call{ID: "start", Files: []*os.File{disk}}, args)
		for _, f := range files {
			f.Close()
		}
		started <- err
	}()
	eventually(t, "the VMM", func() bool { return len(processesOf(t, testUIDs)) > 0 })
	_, files, err := l.machines.reconcile(t.Context(), nil, ops.None{})
	must(t, err)
	files[0].Close()
	select {
	case err := <-started:
		t.Fatalf("the listing waited for the start: %v", err)
	default:
	}
	_, _, err = l.stop(t.Context(), nil, l.handle(r))
	must(t, err)
	must(t, <-started)
	l.wantNothing(t)
}

// A25: whoever comes first, it ends in nothing, and all are answered.
func TestRacingReleases(t *testing.T) {
	l := newLab(t)
	r := l.reserved(t, "a")
	_, err := l.run(t, r, "start", "ok", l.disk(t))
	must(t, err)
	var wg sync.WaitGroup
	for i := range 32 {
		wg.Go(func() {
			var err error
			switch i % 4 {
			case 0:
				_, _, err = l.stop(t.Context(), nil, l.handle(r))
			case 1:
				var files []*os.File
				_, files, err = l.reconnect(t.Context(), nil, l.handle(r))
				for _, f := range files {
					f.Close()
				}
			default:
				_, _, err = l.release(t.Context(), nil, l.handle(r))
			}
			if err != nil && !errors.Is(err, &ops.Error{Code: ops.NotFound}) && !errors.Is(err, &ops.Error{Code: ops.Conflict}) {
				t.Errorf("operation %d: %v", i, err)
			}
		})
	}
	wg.Wait()
	l.wantNothing(t)
	if n := len(l.table.all()); n > 0 {
		t.Errorf("%d reservations are left", n)
	}
}

// What hangs with one VM keeps nobody waiting for longer than he wants to.
func TestWaitForTurnIsBounded(t *testing.T) {
	l := newLab(t)
	r := l.reserved(t, "a")
	must(t, r.acquire(t.Context()))
	defer r.release()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, _, err := l.stop(ctx, nil, l.handle(r)); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
}

// A VMM that has gone by itself is seen, cleared away by sweep, and started anew.
func TestMachineThatDies(t *testing.T) {
	l := newLab(t)
	r := l.reserved(t, "a")
	disk := l.disk(t)
	_, err := l.run(t, r, "start", "ok", disk)
	must(t, err)
	must(t, r.process.Load().Kill())
	<-r.process.Load().Exited()
	if l.running() != 0 {
		t.Error("a VMM that has exited counts as running")
	}
	_, _, err = l.reconnect(t.Context(), nil, l.handle(r))
	wantCode(t, err, ops.Conflict)
	must(t, l.sweep(t.Context()))
	l.wantNothing(t)
	_, err = l.run(t, r, "start-2", "ok", disk)
	must(t, err)
}

func TestSerialLogIsBounded(t *testing.T) {
	l := newLab(t)
	r := l.reserved(t, "a")
	_, err := l.run(t, r, "start", "ok", l.disk(t))
	must(t, err)
	log := l.logPath(r)
	must(t, l.trimLogs())
	if data, err := os.ReadFile(log); err != nil || string(data) != "serving\n" {
		t.Errorf("log is %q, %v", data, err)
	}
	must(t, os.Truncate(log, maxLog+1))
	must(t, l.trimLogs())
	if info, err := os.Stat(log); err != nil || info.Size() != 0 || info.Mode().Perm() != 0o600 {
		t.Errorf("log is %v, %v", info, err)
	}
}

// A VMM that writes as fast as it can is met at once, not at the next tick.
func TestFloodOfSerialLog(t *testing.T) {
	l := newLab(t)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- l.boundLogs(ctx, slog.New(slog.DiscardHandler)) }()
	r := l.reserved(t, "a")
	_, err := l.run(t, r, "start", "flood", l.disk(t))
	must(t, err)
	var largest, last, written int64
	enough := func(took time.Duration) bool {
		return took > 2*time.Second && written >= 5*maxLog || took > 20*time.Second
	}
	for begin := time.Now(); !enough(time.Since(begin)); time.Sleep(time.Millisecond) {
		info, err := os.Stat(l.logPath(r))
		must(t, err)
		if now := info.Size(); now != last {
			largest, written, last = max(largest, now), written+max(0, now-last), now
		}
	}
	cancel()
	must(t, <-ended)
	t.Logf("%d MiB written, at most %d MiB at once", written>>20, largest>>20)
	if written < 5*maxLog {
		t.Skip("too slow a machine for a flood")
	}
	if largest > 3*maxLog {
		t.Errorf("the log had %d MiB", largest>>20)
	}
}

// A new helper takes over what runs, and what was reserved, and nothing else.
func TestAdopt(t *testing.T) {
	l := newLab(t)
	runs, died, idle := l.reserved(t, "a"), l.reserved(t, "b"), l.reserved(t, "c")
	disk := l.disk(t)
	reply, err := l.run(t, runs, "start", "ok", disk)
	must(t, err)
	_, err = l.run(t, died, "start", "ok", l.disk(t))
	must(t, err)
	must(t, died.process.Load().Kill())
	<-died.process.Load().Exited()
	orphan := l.reserved(t, "d")
	_, err = l.run(t, orphan, "start", "ok", l.disk(t))
	must(t, err)
	must(t, os.Remove(filepath.Join(l.dir, "vms", orphan.rec.ID+".json")))

	l.restart(t)
	if l.running() != 1 || len(l.table.all()) != 3 || len(list(t, l.jails)) != 1 {
		t.Errorf("%d run of %d, jails %v", l.running(), len(l.table.all()), list(t, l.jails))
	}
	if pids := processesOf(t, testUIDs+orphan.rec.Slot); len(pids) > 0 {
		t.Errorf("a VMM that nobody can name still runs: %v", pids)
	}
	taps, err := l.net.Taps(t.Context())
	must(t, err)
	if len(taps) != 1 || taps[0].Slot != runs.rec.Slot {
		t.Errorf("taps are %+v", taps)
	}
	// The start is answered again as before, by the new helper.
	r, err := l.table.lock(t.Context(), runs.rec.Handle)
	must(t, err)
	r.release()
	again, err := l.run(t, r, "start", "ok", disk)
	must(t, err)
	if again != reply {
		t.Errorf("got %+v, before %+v", again, reply)
	}
	// Its disk is still its own.
	i, err := l.table.lock(t.Context(), idle.rec.Handle)
	must(t, err)
	i.release()
	_, err = l.run(t, i, "start-idle", "ok", disk)
	wantCode(t, err, ops.Conflict)
	_, _, err = l.stop(t.Context(), nil, l.handle(r))
	must(t, err)
	l.wantNothing(t)
}

// fakeHelper starts one VM over and over until it is killed. It has its own
// table, as a helper has; what it makes the next one finds.
func fakeHelper(args []string) {
	network, err := netns.Ensure(context.Background(), netns.Config{})
	if err != nil {
		panic(err)
	}
	t := &crashTest{}
	m := newMachines(t, args[0], network)
	r, err := m.table.reserve("crash")
	if err != nil {
		panic(err)
	}
	disk, err := os.OpenFile(args[1], os.O_RDWR, 0)
	if err != nil {
		panic(err)
	}
	os.Stdout.WriteString("ready\n")
	call := &ops.Call{ID: "start", Files: []*os.File{disk}}
	a := ops.VMStartArgs{Handle: r.rec.Handle, Kernel: args[2], Initrd: args[2], VMM: ops.QEMU, Net: ops.NetInternet, MemMiB: 128, CPUs: 1}
	for {
		if _, _, err := m.start(context.Background(), call, a); err != nil {
			panic(err)
		}
		if _, _, err := m.stop(context.Background(), nil, ops.HandleArgs{Handle: r.rec.Handle}); err != nil {
			panic(err)
		}
	}
}

// crashTest stands for a test where there is none.
type crashTest struct{ testing.TB }

func (*crashTest) Helper()           {}
func (*crashTest) Fatal(args ...any) { panic(args) }

// Killed at any moment, a helper leaves nothing that the next one does not find:
// either the VM runs and is adopted, or nothing of it is there.
func TestKilledHelper(t *testing.T) {
	l := newLab(t)
	disk, kernel := l.disk(t), l.kernel(t, "ok")
	const kills = 12
	adopted := 0
	for i := range kills {
		cmd := exec.Command("/proc/self/exe")
		cmd.Args = []string{"fake-helper", l.dir, disk.Name(), kernel}
		cmd.Stderr = os.Stderr
		out, err := cmd.StdoutPipe()
		must(t, err)
		must(t, cmd.Start())
		if _, err := out.Read(make([]byte, 6)); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Duration(i) * 5 * time.Millisecond)
		must(t, cmd.Process.Signal(unix.SIGKILL))
		cmd.Wait()

		l.machines = newMachines(t, l.dir, l.net)
		must(t, l.adopt(t.Context()))
		if n := len(l.table.all()); n != 1 {
			t.Fatalf("kill %d: %d reservations", i, n)
		}
		r := l.table.all()[0]
		if l.running() == 1 {
			adopted++
		} else {
			l.wantNothing(t)
		}
		_, _, err = l.stop(t.Context(), nil, l.handle(r))
		must(t, err)
		l.wantNothing(t)
		if t.Failed() {
			t.Fatalf("after kill %d", i)
		}
	}
	t.Logf("%d kills, %d VMs adopted", kills, adopted)
}
