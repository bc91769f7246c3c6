package cli

import (
	"strings"
	"unicode/utf8"

	"banger/personas/guest/link/frame"
)

// printable returns s with everything escaped that could steer a terminal. Line
// breaks are kept; lines after the first are indented, so that no line of s
// looks like one of banger's own.
func printable(s string) string {
	s = strings.ReplaceAll(s, "\r\n", "\n") // as a serial console ends lines
	var b strings.Builder
	for len(s) > 0 {
		r, n := utf8.DecodeRuneInString(s)
		switch {
		case r == '\n':
			b.WriteString("\n  ")
		case r == '\t':
			b.WriteByte(' ')
		default:
			b.WriteString(frame.Visible(r, s[:n]))
		}
		s = s[n:]
	}
	return b.String()
}

// oneLine is printable for a cell of a table.
func oneLine(s string) string {
	return printable(strings.Map(func(r rune) rune {
		if r == '\n' || r == '\t' {
			return ' '
		}
		return r
	}, s))
}
