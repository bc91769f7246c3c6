package cli

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"banger/personas/api"
)

func TestRunReturnsTheCommandsExitCode(t *testing.T) {
	d := newFake(t)
	for _, c := range []struct {
		args []string
		code int
		out  string
		err  string
	}{
		{[]string{"sh", "-c", "exit 42"}, 42, "", ""},
		{[]string{"--", "sh", "-c", "exit 42"}, 42, "", ""},
		{[]string{"--", "true"}, 0, "", ""},
		{[]string{"--", "sh", "-c", "kill -9 $$"}, 137, "", ""},
		{[]string{"--", "no-such-command"}, 127, "", "no-such-command"},
		{[]string{"--", "/etc/passwd"}, 126, "", "/etc/passwd"},
		{[]string{"--", "sh", "-c", "echo out; echo err >&2"}, 0, "out\n", "err\n"},
		// Arguments arrive as they were sent, those that look like ours too.
		{[]string{"--", "printf", "[%s]", "a b", "", "*", "$HOME", "--rm", "-q", "--", "x,y"}, 0, "[a b][][*][$HOME][--rm][-q][--][x,y]", ""},
		{[]string{"printf", "[%s]", "--name", "x", "--", "-"}, 0, "[--name][x][--][-]", ""},
	} {
		got := d.run(append([]string{"vm", "run", "-q", "--rm"}, c.args...)...)
		if got.code != c.code || got.out != c.out || !strings.Contains(got.err, c.err) || c.err == "" && got.err != "" {
			t.Errorf("%q: %+v", c.args, got)
		}
	}
	d.with(func() {
		if len(d.vms) != 0 {
			t.Errorf("VMs are left: %v", d.vms)
		}
	})
}

func TestRunPassesTheSpec(t *testing.T) {
	d := newFake(t)
	got := d.run("vm", "run", "-q", "-d", "--name", "web", "--image", "debian", "--kernel", "k", "--cpus", "3", "--memory", "1.5g",
		"--disk", "10GiB", "--net", "full", "-e", "A=b,c=d", "-e", "E=", "--user", "www", "--workdir", "/srv",
		"--init", "banger", "--vmm", "qemu", "--backend", "copy")
	if got.code != 0 || got.out != "web\n" || got.err != "" {
		t.Fatalf("%+v", got)
	}
	want := api.VMSpec{
		Name: "web", Image: "debian", Kernel: "k", CPUs: 3, MemMiB: 1536, DiskBytes: 10 << 30, Net: "full",
		Env: []string{"A=b,c=d", "E="}, User: "www", WorkDir: "/srv", Init: "banger", VMM: "qemu", Backend: "copy",
	}
	if g := d.spec(); fmt.Sprintf("%+v", g) != fmt.Sprintf("%+v", want) {
		t.Errorf("got %+v\nwant %+v", g, want)
	}
	if log := d.log(); log != "create web, start web" {
		t.Errorf("calls: %s", log)
	}
}

func TestRunWithoutRmKeepsTheVM(t *testing.T) {
	d := newFake(t)
	got := d.run("vm", "run", "--", "false")
	if got.code != 1 || !strings.Contains(got.err, `VM "vm-1" keeps running`) {
		t.Errorf("%+v", got)
	}
	if log := d.log(); log != "create vm-1, start vm-1, agent vm-1" {
		t.Errorf("calls: %s", log)
	}
}

func TestRunWithRmHoldsAndDeletes(t *testing.T) {
	d := newFake(t)
	if got := d.run("vm", "run", "--rm", "--", "true"); got.code != 0 || !strings.Contains(got.err, "boot       12 ms\n") {
		t.Errorf("%+v", got)
	}
	if log := d.log(); log != "create vm-1, hold vm-1, start vm-1, agent vm-1, delete vm-1 true" {
		t.Errorf("calls: %s", log)
	}
	if s := d.spec(); !s.AutoRemove || s.Unheld {
		t.Errorf("spec: %+v", s)
	}
}

func TestDetachedRunWithRmIsNotHeld(t *testing.T) {
	d := newFake(t)
	if got := d.run("vm", "run", "-d", "--rm"); got.code != 0 || got.out != "vm-1\n" {
		t.Errorf("%+v", got)
	}
	if s := d.spec(); !s.AutoRemove || !s.Unheld {
		t.Errorf("spec: %+v", s)
	}
	if log := d.log(); log != "create vm-1, start vm-1" {
		t.Errorf("calls: %s", log)
	}
}

func TestDetachedCommandOutlivesTheCLI(t *testing.T) {
	d := newFake(t)
	file := t.TempDir() + "/fifo"
	if err := syscall.Mkfifo(file, 0o600); err != nil {
		t.Fatal(err)
	}
	got := d.run("vm", "run", "-d", "--", "sh", "-c", "echo later > "+file)
	if got.code != 0 || got.out != "vm-1\n" {
		t.Errorf("%+v", got)
	}
	// The command blocks in open until somebody reads.
	text, err := os.ReadFile(file)
	if err != nil || string(text) != "later\n" {
		t.Errorf("%q, %v", text, err)
	}
}

func TestFailedStartShowsWhyAndDeletes(t *testing.T) {
	d := newFake(t)
	d.with(func() {
		d.fail["start vm-1"] = &api.Error{Code: api.CodeInternal, Message: "start vm-1: no answer", HintText: "the guest's last words:\r\npanic\x1b[2J", RequestID: "abc"}
	})
	got := d.run("vm", "run", "-q", "--rm", "--", "true")
	want := "banger: start vm-1: no answer\nhint: the guest's last words:\n  panic\\x1b[2J\nrequest: abc\n"
	if got.code != 125 || got.err != want {
		t.Errorf("%+v, want %q", got, want)
	}
	if log := d.log(); !strings.HasSuffix(log, "delete vm-1 true") {
		t.Errorf("calls: %s", log)
	}
	if got := d.run("vm", "run", "--", "true"); got.code != 125 || !strings.Contains(got.err, `VM "vm-1" is kept`) {
		t.Errorf("%+v", got)
	}
}

func TestDaemonsUsageErrorIsUsage(t *testing.T) {
	d := newFake(t)
	d.with(func() {
		d.fail["create vm-1"] = &api.Error{Code: api.CodeUsage, Message: "no image", HintText: "import one"}
	})
	if got := d.run("vm", "run", "--", "true"); got.code != 2 || got.err != "banger: no image\nhint: import one\n" {
		t.Errorf("%+v", got)
	}
}

func TestStdinIsPassedOnlyWhenAsked(t *testing.T) {
	d := newFake(t)
	data := make([]byte, 3<<20)
	rand.Read(data)
	sum := fmt.Sprintf("%x", sha256.Sum256(data))
	got := d.runWith(bytes.NewReader(data), "vm", "run", "-q", "--rm", "-i", "--", "sha256sum")
	if got.code != 0 || !strings.HasPrefix(got.out, sum) {
		t.Errorf("with -i: %+v, want %s", got, sum)
	}
	got = d.runWith(strings.NewReader("x"), "vm", "run", "-q", "--rm", "--", "wc", "-c")
	if got.code != 0 || got.out != "0\n" {
		t.Errorf("without -i: %+v", got)
	}
	// Without a command the shell reads its commands.
	got = d.runWith(strings.NewReader("echo hello; exit 7\n"), "vm", "run", "-q", "--rm")
	if got.code != 7 || got.out != "hello\n" {
		t.Errorf("without command: %+v", got)
	}
}

func TestExec(t *testing.T) {
	d := newFake(t)
	d.run("vm", "run", "-d", "--name", "web")
	got := d.run("vm", "exec", "-e", "A=1 2", "--workdir", "/usr", "web", "--", "sh", "-c", `echo "$A" $PWD; exit 3`)
	if got.code != 3 || got.out != "1 2 /usr\n" || got.err != "" {
		t.Errorf("%+v", got)
	}
	if got := d.run("vm", "exec", "nope", "--", "true"); got.code != 125 || got.err != "banger: no VM nope\n" {
		t.Errorf("%+v", got)
	}
}

// A reader who goes away ends the command, and the VM with it.
func TestBrokenPipeStillDeletes(t *testing.T) {
	d := newFake(t)
	cmd := d.cmd("vm", "run", "-q", "--rm", "--", "yes")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	out.Read(make([]byte, 10))
	out.Close()
	cmd.Wait()
	if code := cmd.ProcessState.ExitCode(); code != 141 {
		t.Errorf("exit %d, want 141", code)
	}
	if !strings.HasSuffix(d.log(), "delete vm-1 true") {
		t.Errorf("calls: %s", d.log())
	}
}

func TestInterruptBeforeTheVMRuns(t *testing.T) {
	for _, c := range []struct {
		sig   syscall.Signal
		block string
		rm    bool
		want  string
	}{
		{syscall.SIGINT, "create", false, "create vm-1"},
		{syscall.SIGINT, "create", true, "create vm-1"},
		{syscall.SIGINT, "start", false, "create vm-1, start vm-1, delete vm-1 true"},
		{syscall.SIGTERM, "start", true, "create vm-1, hold vm-1, start vm-1, delete vm-1 true"},
		{syscall.SIGHUP, "start", true, "create vm-1, hold vm-1, start vm-1, delete vm-1 true"},
	} {
		d := newFake(t)
		stage := make(chan string)
		d.with(func() { d.block[c.block] = stage })
		cmd := d.cmd("vm", "run", "-q", fmt.Sprintf("--rm=%t", c.rm), "--", "true")
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		await(t, stage, "request")
		cmd.Process.Signal(c.sig)
		await(t, stage, "cancellation")
		cmd.Wait()
		if code := cmd.ProcessState.ExitCode(); code != 128+int(c.sig) {
			t.Errorf("%v during %s: exit %d", c.sig, c.block, code)
		}
		if log := d.log(); log != c.want {
			t.Errorf("%v during %s: calls %s, want %s", c.sig, c.block, log, c.want)
		}
	}
}

// A second signal gives up waiting for the deletion: what that leaves is said.
func TestInterruptedDeletionSaysWhatMayBeLeft(t *testing.T) {
	d := newFake(t)
	start, deletion := make(chan string), make(chan string)
	d.with(func() { d.block["start"], d.block["delete"] = start, deletion })
	cmd := d.cmd("vm", "run", "-q", "--", "true")
	var errOut bytes.Buffer
	cmd.Stderr = &errOut
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	for _, stage := range []chan string{start, deletion} {
		await(t, stage, "request")
		cmd.Process.Signal(syscall.SIGINT)
		await(t, stage, "cancellation")
	}
	cmd.Wait()
	const want = "banger: ended by interrupt\nbanger: delete VM \"vm-1\": not waited for\nhint: VM \"vm-1\" may still be there: see \"banger vm list\"\n"
	if code := cmd.ProcessState.ExitCode(); code != 130 || errOut.String() != want {
		t.Errorf("exit %d\n%swant\n%s", code, errOut.String(), want)
	}
}

// start runs banger until its command has written a line.
func (d *fakeDaemon) startUntilReady(args ...string) (signal func(syscall.Signal), wait func() result) {
	d.t.Helper()
	cmd := d.cmd(args...)
	var errOut bytes.Buffer
	cmd.Stderr = &errOut
	out, err := cmd.StdoutPipe()
	if err != nil {
		d.t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		d.t.Fatal(err)
	}
	line := make([]byte, 6)
	if _, err := out.Read(line); err != nil || string(line) != "ready\n" {
		d.t.Fatalf("%q, %v; %s", line, err, errOut.String())
	}
	signal = func(s syscall.Signal) {
		if err := cmd.Process.Signal(s); err != nil {
			d.t.Error(err)
		}
	}
	return signal, func() result {
		var rest bytes.Buffer
		rest.ReadFrom(out)
		cmd.Wait()
		return result{cmd.ProcessState.ExitCode(), rest.String(), errOut.String()}
	}
}

func TestSignalsReachTheCommand(t *testing.T) {
	for _, sig := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT, syscall.SIGUSR1} {
		d := newFake(t)
		signal, wait := d.startUntilReady("vm", "run", "-q", "--rm", "--", "sh", "-c", fmt.Sprintf(
			`trap 'echo got %d; exit 5' %d; echo ready; while :; do sleep 0.02; done`, sig, sig))
		signal(sig)
		if got := wait(); got.code != 5 || got.out != fmt.Sprintf("got %d\n", sig) {
			t.Errorf("%v: %+v", sig, got)
		}
		if !strings.HasSuffix(d.log(), "delete vm-1 true") {
			t.Errorf("%v: calls %s", sig, d.log())
		}
	}
}

// Signals that wait are merged into one, so that each interrupt waits until the command
// has heard the one before. Where three have taken too long they are sent again: that it
// is the third within a second is for TestThirdInterruptGivesUp to say.
func TestThreeInterruptsLeaveAStubbornCommand(t *testing.T) {
	d := newFake(t)
	heard := filepath.Join(t.TempDir(), "heard")
	signal, wait := d.startUntilReady("vm", "run", "-q", "--rm", "--", "sh", "-c",
		`trap 'echo >>`+heard+`' INT; echo ready; i=0; while [ $((i += 1)) -lt 5000 ]; do sleep 0.02; done`)
	count := func() int64 {
		info, err := os.Stat(heard)
		if err != nil {
			return 0
		}
		return info.Size()
	}
	ended := make(chan result, 1)
	go func() { ended <- wait() }()
	for try := 1; len(ended) == 0; try++ {
		if try > 5 {
			signal(syscall.SIGKILL)
			t.Fatal("interrupts do not end it")
		}
		for range 2 {
			before := count()
			signal(syscall.SIGINT)
			for begin := time.Now(); count() == before; time.Sleep(time.Millisecond) {
				if time.Since(begin) > 20*time.Second {
					t.Fatal("the command has not heard an interrupt")
				}
			}
		}
		signal(syscall.SIGINT)
		for begin := time.Now(); len(ended) == 0 && time.Since(begin) < 10*time.Second; {
			time.Sleep(time.Millisecond) // one more would end the deletion
		}
	}
	if got := <-ended; got.code != 130 {
		t.Errorf("%+v", got)
	}
	if !strings.HasSuffix(d.log(), "delete vm-1 true") {
		t.Errorf("calls %s", d.log())
	}
}

// The daemon dies by SIGKILL and comes back: the command goes on, is held
// again, and its code is the CLI's.
func TestCommandOutlivesTheDaemon(t *testing.T) {
	d := newFake(t)
	signal, wait := d.startUntilReady("vm", "run", "-q", "--rm", "--", "sh", "-c",
		`trap 'exit 9' USR1; echo ready; while :; do sleep 0.02; done`)
	await(t, d.held, "first hold")
	d.die()
	time.Sleep(100 * time.Millisecond) // long enough for a first try in vain
	d.listen()
	await(t, d.held, "second hold")
	signal(syscall.SIGUSR1)
	if got := wait(); got.code != 9 || strings.Contains(got.err, "banger") {
		t.Errorf("%+v", got)
	}
	if calls := strings.Split(d.log(), ", "); calls[len(calls)-1] != "delete vm-1 true" || !slices.Contains(calls, "hold vm-1") {
		t.Errorf("calls %s", d.log())
	}
}

func TestKilledCLILetsGo(t *testing.T) {
	d := newFake(t)
	signal, wait := d.startUntilReady("vm", "run", "-q", "--rm", "--", "sh", "-c", `echo ready; exec cat /dev/zero`)
	await(t, d.held, "hold")
	gone := make(chan error)
	var held net.Conn
	d.with(func() { held = d.holds[0] })
	go func() {
		_, err := held.Read(make([]byte, 1))
		gone <- err
	}()
	signal(syscall.SIGKILL)
	wait()
	if err := await(t, gone, "end of the hold"); err == nil {
		t.Error("the hold carried data")
	}
}
