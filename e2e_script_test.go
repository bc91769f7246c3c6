package main_test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"banger/testdata/host"
)

// TestScripts runs the scenarios of testdata/script, each on a host of its own
// with a kernel and an image in the catalogue. The format is that of Go's own
// script tests, as far as it is needed here:
//
//	exec COMMAND        must end with 0
//	status N COMMAND    must end with N
//	stdin FILE          is the input of the next command
//	stdout REGEXP       must match what the last command printed
//	stderr REGEXP       the same for its errors
//	cp stdout FILE      keeps what it printed
//	cmp stdout FILE     must be the same
//	!                   in front: must not
//	-- FILE --          begins a file, up to the next or the end
func TestScripts(t *testing.T) {
	files, err := filepath.Glob("testdata/script/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatalf("no scripts: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			lines, data := parseScript(string(text))
			s := &script{t: t, h: bootHost(t), files: data}
			for i, line := range lines {
				if words := splitWords(line); len(words) > 0 {
					if err := s.do(words); err != nil {
						t.Fatalf("%s:%d: %s: %v\nlast command: %v", file, i+1, line, err, s.last)
					}
				}
			}
		})
	}
}

var fileMark = regexp.MustCompile(`(?m)^-- (.+) --\n`)

// parseScript splits a scenario into its lines and its files.
func parseScript(text string) (lines []string, files map[string]string) {
	files = map[string]string{}
	marks := fileMark.FindAllStringSubmatchIndex(text, -1)
	end := len(text)
	for i := len(marks) - 1; i >= 0; i-- {
		m := marks[i]
		files[text[m[2]:m[3]]] = text[m[1]:end]
		end = m[0]
	}
	return strings.Split(text[:end], "\n"), files
}

// splitWords splits a line at spaces, but not within single quotes, and drops
// a comment.
func splitWords(line string) []string {
	var words []string
	var word strings.Builder
	quoted, any := false, false
	for _, r := range line + " " {
		switch {
		case r == '\'':
			quoted, any = !quoted, true
		case r == '#' && !quoted && !any:
			return words
		case r == ' ' && !quoted:
			if any {
				words = append(words, word.String())
			}
			word.Reset()
			any = false
		default:
			word.WriteRune(r)
			any = true
		}
	}
	return words
}

// script is a scenario on its way.
type script struct {
	t     *testing.T
	h     *host.Host
	files map[string]string
	stdin string
	last  host.Result
}

func (s *script) do(words []string) error {
	want := true
	if words[0] == "!" {
		want, words = false, words[1:]
	}
	verb, args := words[0], words[1:]
	switch verb {
	case "exec":
		return s.run(0, args)
	case "status":
		code, err := strconv.Atoi(args[0])
		if err != nil {
			return err
		}
		return s.run(code, args[1:])
	case "stdin":
		s.stdin = s.files[args[0]]
	case "stdout":
		return s.match(s.last.Stdout, args[0], want)
	case "stderr":
		return s.match(s.last.Stderr, args[0], want)
	case "cp":
		s.files[args[1]] = s.last.Stdout
	case "cmp":
		if same := bytes.Equal([]byte(s.last.Stdout), []byte(s.files[args[1]])); same != want {
			return fmt.Errorf("the same: %t", same)
		}
	default:
		return fmt.Errorf("no such verb")
	}
	return nil
}

func (s *script) run(code int, args []string) error {
	s.last = s.h.Input(host.Root, s.stdin, args...)
	s.stdin = ""
	if s.last.Code != code {
		return fmt.Errorf("want exit code %d", code)
	}
	return nil
}

func (s *script) match(text, pattern string, want bool) error {
	re, err := regexp.Compile("(?m)" + pattern)
	if err != nil {
		return err
	}
	if found := re.MatchString(text); found != want {
		return fmt.Errorf("found: %t", found)
	}
	return nil
}
