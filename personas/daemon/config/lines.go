package config

import (
	"fmt"
	"regexp"
	"strings"
	"sync"
)

var keyPattern = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^\s*["']?([A-Za-z0-9_-]+)["']?\s*=`) })
var tablePattern = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^\s*(\[\[?)\s*["']?([A-Za-z0-9_-]+)["']?\s*\]`) })

// findLines tells on which line of a text each key stands: "cpus", and in the
// second table of an array "file_sync[1].host". The decoder keeps to itself where
// a key was. A line of a text that only looks like a key leads an error astray,
// and nothing else.
func findLines(text string) map[string]int {
	lines := make(map[string]int)
	count := make(map[string]int)
	within := ""
	note := func(key string, line int) {
		if lines[key] == 0 {
			lines[key] = line
		}
	}
	line := 0
	for s := range strings.SplitSeq(text, "\n") {
		line++
		if m := tablePattern().FindStringSubmatch(s); m != nil {
			note(m[2], line)
			within = m[2]
			if m[1] == "[[" {
				within = fmt.Sprintf("%s[%d]", m[2], count[m[2]])
				count[m[2]]++
				note(within, line)
			}
			within += "."
		} else if m := keyPattern().FindStringSubmatch(s); m != nil {
			note(within+m[1], line)
		}
	}
	return lines
}
