package cli

import (
	"strconv"
	"strings"
	"unicode/utf8"
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
			b.WriteString(visible(r, s[:n]))
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

// visible returns the rune that raw holds, or how cat -v shows it.
func visible(r rune, raw string) string {
	switch {
	case r == utf8.RuneError && len(raw) == 1:
		return `\x` + strconv.FormatUint(uint64(raw[0]), 16)
	case r < 0x20:
		return "^" + string(r+'@')
	case r == 0x7f:
		return "^?"
	case !strconv.IsPrint(r):
		q := strconv.QuoteRune(r)
		return q[1 : len(q)-1]
	}
	return raw
}
