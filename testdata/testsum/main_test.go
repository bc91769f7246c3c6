package main

import (
	"bytes"
	"strings"
	"testing"
)

// What panics ends tests that say no end of their own: they are told, and counted.
func TestTestsWithoutEnd(t *testing.T) {
	const events = `{"Action":"run","Package":"p","Test":"TestA"}
{"Action":"output","Package":"p","Test":"TestA","Output":"said A\n"}
{"Action":"pass","Package":"p","Test":"TestA"}
{"Action":"output","Package":"p","Test":"TestB","Output":"said B\n"}
{"Action":"output","Package":"p","Test":"TestB/sub","Output":"panic: too long\n"}
{"Action":"output","Package":"q","Test":"TestC","Output":"still runs\n"}
{"Action":"output","Package":"p","Test":"TestD","Output":"x.go:1: needs root\n"}
{"Action":"skip","Package":"p","Test":"TestD","Elapsed":0.1}
{"Action":"output","Package":"p","Test":"TestE","Output":"x.go:1: it hangs\n"}
{"Action":"skip","Package":"p","Test":"TestE","Elapsed":90}
{"Action":"fail","Package":"p","Elapsed":1}
`
	s := sum{output: map[string][]string{}, reasons: map[string]int{}}
	var w bytes.Buffer
	if err := s.read(strings.NewReader(events), &w); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"NO END: p TestB\nsaid B\n", "NO END: p TestB/sub\npanic: too long\n", "SKIP: p TestE (90.0 s)\nx.go:1: it hangs"} {
		if !strings.Contains(w.String(), want) {
			t.Errorf("no %q in %q", want, w.String())
		}
	}
	if strings.Contains(w.String(), "said A") || strings.Contains(w.String(), "still runs") || strings.Contains(w.String(), "needs root") || s.passed != 1 || s.failed != 2 {
		t.Errorf("%d passed, %d failed; %q", s.passed, s.failed, w.String())
	}
}
