package guest_test

import (
	"bytes"
	"testing"

	"banger/personas/guest/link"
)

// A guest that has run out of memory can still be reached: the kernel kills what
// used it up, and never the agent.
func TestBootOutOfMemory(t *testing.T) {
	m := start(t, diskOf(t, "debian.tar"))
	m.mustBoot(t, config())
	for script, want := range map[string]string{
		"cat /proc/1/comm /proc/$PPID/comm":                      "banger-guest\nbanger-guest\n",
		"cat /proc/$PPID/oom_score_adj /proc/self/oom_score_adj": "-1000\n0\n",
	} {
		if got := m.sh(t, script); got != want {
			t.Errorf("%s: got %q, want %q", script, got, want)
		}
	}
	agent := m.sh(t, "echo $PPID")
	var out bytes.Buffer
	code, err := link.Exec(t.Context(), m.dial(t), link.ExecRequest{Args: []string{"tail", "/dev/zero"}}, link.ExecIO{Stdout: &out, Stderr: &out})
	if err != nil || code != 137 {
		t.Errorf("exit code %d, %v\n%s", code, err, out.String())
	}
	if got := m.sh(t, "echo $PPID"); got != agent {
		t.Errorf("the agent was %q, and is %q", agent, got)
	}
	m.shutdown(t, link.ShutdownRequest{})
}
