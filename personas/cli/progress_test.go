package cli

import (
	"strings"
	"testing"

	"banger/personas/api"
)

var someEvents = []api.Event{
	{Step: "disk"}, {Step: "net\x1b[2J"}, {Step: "disk", Done: true, Millis: 1234}, {Notice: "slow\x1b"}, {Bytes: 3 << 20},
	{Step: "net\x1b[2J", Done: true, Millis: 7},
}

func TestProgressOnAPipe(t *testing.T) {
	var out strings.Builder
	p := &progress{w: &out, prefix: "web: ", done: make(chan struct{})}
	for _, ev := range someEvents {
		p.event(ev)
	}
	p.end()
	want := "web: disk       1.2 s\nbanger: web: slow\\x1b\nweb: net\\x1b[2J 7 ms\n"
	if out.String() != want {
		t.Errorf("%q, want %q", out.String(), want)
	}
}

func TestProgressOnATerminal(t *testing.T) {
	var out strings.Builder
	p := &progress{w: &out, live: true, width: func() int { return 40 }, done: make(chan struct{})}
	for _, ev := range someEvents {
		p.event(ev)
	}
	p.end()
	// Nothing but what we draw ourselves moves the cursor.
	text := strings.ReplaceAll(out.String(), "\r\x1b[K", "\r")
	if strings.ContainsRune(text, '\x1b') {
		t.Errorf("an escape passed: %q", text)
	}
	var live, kept int
	for line := range strings.SplitSeq(text, "\r") {
		if len([]rune(strings.TrimSuffix(line, "\n"))) >= 40 {
			t.Errorf("%q is wider than the terminal", line)
		}
		if strings.HasSuffix(line, "\n") {
			kept++
		} else if line != "" {
			live++
		}
	}
	if kept < 2 || live < 3 {
		t.Errorf("%d lines kept and %d live in %q", kept, live, text)
	}
	if !strings.Contains(text, "disk       1.2 s\n") || !strings.Contains(text, "3MiB") {
		t.Errorf("%q", text)
	}
	// The live line is gone at the end.
	if !strings.HasSuffix(text, "net\\x1b[2J 7 ms\n") {
		t.Errorf("ends with %q", text)
	}
}
