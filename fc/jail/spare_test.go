package jail

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// spareOf returns the process of the spare stage, or 0.
func spareOf(s *Starter) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.spare == nil {
		return 0
	}
	return s.spare.pid
}

// startIt starts a VMM and returns its pid; it ends with the test.
func startIt(t *testing.T, s *Starter) int {
	t.Helper()
	p, err := s.Start(within(t, 20*time.Second), newSpec(t, ""))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(p.Kill(), p.gone(), p.Release()); err != nil {
			t.Error(err)
		}
	})
	if len(ask(t, p, "look")) == 0 {
		t.Error("no answer")
	}
	return p.PID()
}

func TestStarter(t *testing.T) {
	needRoot(t)
	var s Starter
	s.Prepare()
	spare := spareOf(&s)
	s.Prepare() // one is enough
	if spare == 0 || spareOf(&s) != spare {
		t.Fatalf("spare %d, then %d", spare, spareOf(&s))
	}
	if pid := startIt(t, &s); pid != spare {
		t.Errorf("VMM is process %d, the spare was %d", pid, spare)
	}
	if left := spareOf(&s); left != 0 {
		t.Errorf("stage %d is left", left)
	}
	startIt(t, &s) // and without a spare
}

func TestSpareThatIsNotUsedEnds(t *testing.T) {
	needRoot(t)
	var s Starter
	s.Prepare()
	pid := spareOf(&s)
	s.Relax()
	if err := unix.Kill(pid, 0); err != unix.ESRCH {
		t.Errorf("stage %d after Relax: %v", pid, err)
	}
	s.Relax() // nothing is left to be ended
}

func TestSpareThatWasKilled(t *testing.T) {
	needRoot(t)
	var s Starter
	s.Prepare()
	spare := spareOf(&s)
	if err := unix.Kill(spare, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(5 * time.Second); !strings.Contains(statOf(spare), ") Z "); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("it lives on")
		}
	}
	if pid := startIt(t, &s); pid == spare {
		t.Errorf("VMM is the process %d that was killed", pid)
	}
}

// TestStageIsNamed: ps must not show a number, or "exe".
func TestStageIsNamed(t *testing.T) {
	needRoot(t)
	var s Starter
	s.Prepare()
	defer s.Relax()
	for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(time.Millisecond) {
		name := statOf(spareOf(&s))
		if strings.Contains(name, "("+StageName+")") {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("it is called %q", name)
		}
	}
}

func statOf(pid int) string {
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return string(b)
}
