package jail

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestJailOfHangingProcessStays: what was killed and does not go keeps its things. The
// first process of a namespace hangs in the kernel while another one in there, the child
// of somebody outside, is not waited for.
func TestJailOfHangingProcessStays(t *testing.T) {
	needRoot(t)
	nsenter, err := exec.LookPath("nsenter")
	if err != nil {
		t.Skip("needs nsenter")
	}
	s := newSpec(t, "")
	ctx, cancel := context.WithCancel(t.Context())
	var lazy *exec.Cmd
	_, err = startIn(ctx, s, func() (*stage, error) {
		st, err := startStage()
		if err != nil {
			return nil, err
		}
		lazy = exec.Command(nsenter, fmt.Sprintf("--pid=/proc/%d/ns/pid", st.pid), "sleep", "60")
		if err := lazy.Start(); err != nil {
			return nil, err
		}
		await(t, "somebody in the namespace", func() bool {
			b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", lazy.Process.Pid, lazy.Process.Pid))
			return len(b) > 0
		})
		if err := lazy.Process.Signal(unix.SIGSTOP); err != nil {
			return nil, err
		}
		await(t, "his father's sleep", func() bool { return strings.Contains(statOf(lazy.Process.Pid), ") T ") })
		cancel() // it never becomes a VMM
		return st, nil
	})
	if !errors.Is(err, ErrRunning) {
		t.Errorf("start says %v", err)
	}
	jails, lerr := List(s.Parent)
	if lerr != nil || len(jails) != 1 {
		t.Fatalf("jails are %v, %v", jails, lerr)
	}
	if err := Remove(t.Context(), jails[0]); !errors.Is(err, ErrRunning) {
		t.Errorf("remove says %v while it hangs", err)
	}
	if err := lazy.Process.Signal(unix.SIGCONT); err != nil {
		t.Fatal(err)
	}
	lazy.Wait()
	await(t, "the removal of its jail", func() bool { return Remove(t.Context(), jails[0]) == nil })
}

// await waits until done.
func await(t *testing.T, what string, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(5 * time.Second); !done(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain for %s", what)
		}
	}
}
