package main_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"banger/fc/jail"
	"banger/testdata/host"
)

// TestOnlyTheVMMIsStarted: on the way of a `vm run`, with daemons that are up,
// no program is started but the VMM, through the stage that jails it. strace
// sees every program that the CLI and both daemons become or start.
func TestOnlyTheVMMIsStarted(t *testing.T) {
	if _, err := exec.LookPath("strace"); err != nil {
		t.Skip("needs strace")
	}
	quick, err := buildQuick()
	if err != nil {
		t.Fatal(err)
	}
	host.Require(t)
	h := host.New(t, host.Config{Banger: quick, Seed: seed(t)})
	t.Cleanup(h.StopDaemons)
	h.Must(host.Root, "banger", "vm", "run", "--rm", "--", "true") // makes the initrd

	trace := filepath.Join(h.Dir(), "daemons")
	stop := attach(t, h, trace, "bangerd", "banger-helper")
	own := filepath.Join(h.Dir(), "cli")
	h.Must(host.Root, "strace", "-f", "-qq", "-s", "4096", "-e", "trace=execve,execveat", "-o", own,
		h.Banger(), "vm", "run", "--rm", "--", "true")
	stop()

	if got, want := started(t, trace), []string{jail.StageName, "banger-vmm"}; !slices.Equal(got, want) {
		t.Errorf("the daemons started %q, want %q", got, want)
	}
	if got, want := started(t, own), []string{h.Banger()}; !slices.Equal(got, want) {
		t.Errorf("the CLI became or started %q, want %q", got, want)
	}
}

// buildQuick builds banger with a VMM that answers at once, and returns its path.
func buildQuick() (string, error) {
	if _, err := build("quickvmm-vmm", "./testdata/quickvmm/vmm"); err != nil {
		return "", err
	}
	return build("quickvmm", "./testdata/quickvmm")
}

// attach traces the programs that processes of the host start, into file, until
// stop is called.
func attach(t *testing.T, h *host.Host, file string, names ...string) (stop func()) {
	t.Helper()
	args := []string{"strace", "-f", "-qq", "-s", "4096", "-e", "trace=execve,execveat", "-e", "signal=none", "-o", file}
	var pids []int
	for _, name := range names {
		for _, pid := range h.Pids(name) {
			pids = append(pids, pid)
			args = append(args, "-p", fmt.Sprint(pid))
		}
	}
	if len(pids) != len(names) {
		t.Fatalf("%d processes are %q", len(pids), names)
	}
	cmd := h.Cmd(t.Context(), host.Root, args...)
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	deadline := time.Now().Add(10 * time.Second)
	for _, pid := range pids {
		for !traced(h, pid) {
			if time.Now().After(deadline) {
				t.Fatalf("strace did not attach to process %d", pid)
			}
			time.Sleep(5 * time.Millisecond)
		}
	}
	return func() {
		cmd.Signal(syscall.SIGINT) // strace lets go of them and ends by the signal
		cmd.Wait()
	}
}

// traced reports whether every thread of a process of the host has a tracer.
func traced(h *host.Host, pid int) bool {
	files, _ := filepath.Glob(h.Path(fmt.Sprintf("/proc/%d/task/*/status", pid)))
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err == nil && strings.Contains(string(text), "TracerPid:\t0\n") {
			return false
		}
	}
	return len(files) > 0
}

// succeeded matches an execve that was done, as strace prints it, and the
// program's argv[0] in it.
var succeeded = regexp.MustCompile(`(?m)^\d+ +execve(?:at)?\([^\[]*\["([^"]+)".*\) += 0$`)

// started returns argv[0] of every program that a trace tells of, in order.
func started(t *testing.T, trace string) []string {
	t.Helper()
	text, err := os.ReadFile(trace)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, m := range succeeded.FindAllStringSubmatch(string(text), -1) {
		names = append(names, m[1])
	}
	if strings.Count(string(text), "exec") != len(names) {
		t.Logf("trace:\n%s", text)
	}
	return names
}
