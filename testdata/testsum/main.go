// Testsum reads `go test -json` on standard input and says what happened: the
// output of tests that failed, one line for each package, why tests were
// skipped, and the sum alone on the last line. It exits with 1 if anything
// failed or nothing ran.
package main

import (
	"bufio"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
)

// event is one line of `go test -json`; see `go doc test2json`.
type event struct {
	Action     string
	Package    string
	ImportPath string // of build output
	Test       string
	Elapsed    float64 // seconds
	Output     string
}

// sum is what was counted so far.
type sum struct {
	passed, failed, skipped int

	output  map[string][]string // by package and test, until the test's end
	reasons map[string]int      // how often each reason for a skip was given
	broken  bool                // a package failed outside its tests
}

func main() {
	name := flag.String("name", "", "a word before the sum")
	flag.Parse()
	if *name != "" {
		*name += ": "
	}
	s := sum{output: map[string][]string{}, reasons: map[string]int{}}
	if err := s.read(os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "testsum: read events:", err)
		os.Exit(1)
	}
	for _, reason := range s.sortedReasons() {
		fmt.Printf("skipped %d: %s\n", s.reasons[reason], reason)
	}
	if s.passed+s.failed == 0 {
		s.broken = true
	}
	if s.broken && s.failed == 0 {
		s.failed++ // a package that does not build has at least one failure
	}
	fmt.Printf("%s%d passed, %d failed, %d skipped\n", *name, s.passed, s.failed, s.skipped)
	if s.failed > 0 {
		os.Exit(1)
	}
}

// read counts all events of r. What a reader should see goes to w at once.
func (s *sum) read(r io.Reader, w io.Writer) error {
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, 16<<20)
	for lines.Scan() {
		var e event
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			fmt.Fprintln(w, lines.Text()) // not an event: the go command's own word
			continue
		}
		s.count(e, w)
	}
	return lines.Err()
}

func (s *sum) count(e event, w io.Writer) {
	key := e.Package + "\x00" + e.Test
	switch e.Action {
	case "output":
		s.output[key] = append(s.output[key], e.Output)
	case "build-output":
		fmt.Fprint(w, e.Output)
	case "build-fail":
		s.broken = true
	case "pass", "fail", "skip":
		if e.Test == "" {
			s.countPackage(e, w)
		} else {
			s.countTest(e, w)
		}
		delete(s.output, key)
	}
}

// soon is when a test has been skipped that does nothing but that, in seconds.
const soon = 5

func (s *sum) countTest(e event, w io.Writer) {
	output := s.output[e.Package+"\x00"+e.Test]
	switch e.Action {
	case "pass":
		s.passed++
	case "skip":
		s.skipped++
		s.reasons[skipReason(output)]++
		if e.Elapsed > soon { // it had begun: why it did not go on is of interest
			fmt.Fprintf(w, "--- SKIP: %s %s (%.1f s)\n%s", e.Package, e.Test, e.Elapsed, strings.Join(output, ""))
		}
	case "fail":
		s.failed++
		fmt.Fprintf(w, "--- FAIL: %s %s (%.1f s)\n%s", e.Package, e.Test, e.Elapsed, strings.Join(output, ""))
	}
}

func (s *sum) countPackage(e event, w io.Writer) {
	word := map[string]string{"pass": "ok", "fail": "FAIL", "skip": "none"}[e.Action]
	coverage := ""
	for _, line := range s.output[e.Package+"\x00"] {
		if _, after, ok := strings.Cut(line, "coverage: "); ok {
			coverage = strings.TrimSpace(after)
		}
	}
	fmt.Fprintf(w, "%-4s %-40s %6.1f s  %s\n", word, e.Package, e.Elapsed, coverage)
	if e.Action == "fail" {
		s.broken = true
		fmt.Fprint(w, strings.Join(s.output[e.Package+"\x00"], ""))
		s.tellUnended(e.Package, w)
	}
}

// tellUnended prints what the tests of a package have said that have no end: who
// panics or takes too long ends them all.
func (s *sum) tellUnended(pkg string, w io.Writer) {
	for _, key := range slices.Sorted(maps.Keys(s.output)) {
		if of, test, _ := strings.Cut(key, "\x00"); of == pkg && test != "" {
			s.failed++
			fmt.Fprintf(w, "--- NO END: %s %s\n%s", pkg, test, strings.Join(s.output[key], ""))
			delete(s.output, key)
		}
	}
}

// skipReason returns what a skipped test said: the text after "file.go:12: ".
func skipReason(output []string) string {
	for _, line := range output {
		if _, after, ok := strings.Cut(line, ".go:"); ok {
			if _, reason, ok := strings.Cut(after, ": "); ok {
				return strings.TrimSpace(reason)
			}
		}
	}
	return "no reason given"
}

func (s *sum) sortedReasons() []string {
	reasons := make([]string, 0, len(s.reasons))
	for r := range s.reasons {
		reasons = append(reasons, r)
	}
	slices.Sort(reasons)
	return reasons
}
