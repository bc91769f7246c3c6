package main_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"banger/personas/api"
	"banger/personas/cli/bringup"
	"banger/testdata/host"
)

// bringUpEnv makes the test program one that brings up daemons on the host that
// it is started on, as the command line does, but with another idle time.
const bringUpEnv = "BANGER_TEST_IDLE"

func bringUp(idle string) int {
	err := func() (err error) {
		h := bringup.Default(api.SocketPath)
		h.Exe = os.Args[1]
		if h.Idle, err = time.ParseDuration(idle); err != nil {
			return err
		}
		return bringup.Reach(context.Background(), h, func(ctx context.Context) error {
			_, err := api.New(api.SocketPath, "").Version(ctx)
			return err
		})
	}()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// startIdle starts both daemons, which leave when they were not needed for idle.
func startIdle(t *testing.T, h *host.Host, idle time.Duration) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	h.Must(host.Root, "env", bringUpEnv+"="+idle.String(), self, h.Banger())
}

// running is how many daemons there are.
func running(h *host.Host) int { return len(h.Pids("bangerd")) + len(h.Pids("banger-helper")) }

// guestHung is what the daemon says of an emulated guest that hung, and was started again.
const guestHung = `level=WARN msg="emulated guest hangs before its first word, starting it again" `

// TestIdleDaemonsLeave: daemons that nobody needs are gone by themselves, with
// all that they had on the host, and say nothing that should worry anybody.
func TestIdleDaemonsLeave(t *testing.T) {
	h := newHost(t, host.Config{Seed: seed(t)})
	const idle = 3 * time.Second
	before := h.Look()
	gone := func() {
		t.Helper()
		waitFor(t, "the daemons to leave", func() bool { return running(h) == 0 })
		if diff := host.Difference(before, h.Look()); len(diff) > 0 {
			t.Errorf("the daemons have left behind:\n%s", strings.Join(diff, "\n"))
		}
	}
	startIdle(t, h, idle)
	if n := running(h); n != 2 {
		t.Fatalf("%d daemons run, want 2", n)
	}
	gone()

	// A VM that runs keeps them, one that is stopped does not.
	startIdle(t, h, idle)
	h.Must(host.Root, "banger", "vm", "run", "-d", "--name", "web")
	time.Sleep(3 * idle) // nothing is to happen
	if n := running(h); n != 2 {
		t.Fatalf("%d daemons run beside a VM, want 2", n)
	}
	if got := h.Must(host.Root, "banger", "vm", "exec", "web", "--", "hostname"); got != "web" {
		t.Errorf("hostname is %q", got)
	}
	h.Must(host.Root, "banger", "vm", "stop", "web")
	waitFor(t, "the daemons to leave", func() bool { return running(h) == 0 })

	for _, log := range []string{"/run/banger/bangerd.log", "/run/banger-helper/helper.log"} {
		text, err := os.ReadFile(h.Path(log))
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(text)) {
			if !strings.Contains(line, "level=INFO") && !strings.Contains(line, guestHung) {
				t.Errorf("%s: %s", filepath.Base(log), line)
			}
		}
	}
	startIdle(t, h, idle)
	h.Must(host.Root, "banger", "vm", "delete", "web")
	gone()
}

// TestCallWhileDaemonsLeave: a command at the very moment that idle daemons leave
// has its answer, from them or from the next ones.
func TestCallWhileDaemonsLeave(t *testing.T) {
	h := newHost(t, host.Config{})
	const idle = 300 * time.Millisecond
	answered := 0
	for range 12 {
		startIdle(t, h, idle)
		first := h.Pids("bangerd")
		time.Sleep(idle/2 + rand.N(idle))
		if r := h.Run(host.Root, "banger", "vm", "list", "--output", "json"); r.Code != 0 || strings.TrimSpace(r.Stdout) != "[]" {
			t.Errorf("vm list while the daemons leave: %v", r)
		}
		if now := h.Pids("bangerd"); len(now) == 1 && len(first) == 1 && now[0] == first[0] {
			answered++
		}
		h.StopDaemons()
	}
	t.Logf("of 12 calls the first daemons have answered %d", answered)
}
