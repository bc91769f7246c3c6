package jail

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
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
		children := fmt.Sprintf("/proc/%d/task/%d/children", lazy.Process.Pid, lazy.Process.Pid)
		for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(time.Millisecond) {
			if b, _ := os.ReadFile(children); len(b) > 0 {
				break
			}
			if time.Now().After(deadline) {
				return nil, errors.New("nobody has entered the namespace")
			}
		}
		cancel() // it never becomes a VMM
		return st, lazy.Process.Signal(unix.SIGSTOP)
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
	for deadline := time.Now().Add(5 * time.Second); Remove(t.Context(), jails[0]) != nil; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("its jail cannot be removed afterwards")
		}
	}
}
