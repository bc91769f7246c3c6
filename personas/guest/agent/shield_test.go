package agent_test

import (
	"bytes"
	"os"
	"strings"
	"sync"
	"testing"

	"banger/personas/guest/agent"
	"banger/personas/guest/link"
)

// The agent outlives want of memory; what it runs does not, however much is
// started at once.
func TestShield(t *testing.T) {
	score := func() string {
		text, err := os.ReadFile("/proc/self/oom_score_adj")
		if err != nil {
			t.Fatal(err)
		}
		return strings.TrimSpace(string(text))
	}
	before := score()
	a := agent.New(agent.Config{})
	end, err := a.Shield()
	if err != nil {
		t.Skipf("needs the right to lower its score: %v", err)
	}
	defer end()
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			client, server := socketPair(t)
			all.Go(func() { a.Handle(t.Context(), server) })
			var out bytes.Buffer
			code, err := link.Exec(limited(t), client, sh("cat /proc/self/oom_score_adj; sh -c 'cat /proc/self/oom_score_adj'"), link.ExecIO{Stdout: &out})
			if want := before + "\n" + before + "\n"; err != nil || code != 0 || out.String() != want {
				t.Errorf("commands have %q, want %q: %d, %v", out.String(), want, code, err)
			}
		})
	}
	all.Wait()
	if got := score(); got != "-1000" {
		t.Errorf("the agent has %s", got)
	}
	if end(); score() != before {
		t.Errorf("afterwards it has %s, want %s", score(), before)
	}
}
