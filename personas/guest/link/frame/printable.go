package frame

import (
	"strconv"
	"strings"
	"unicode/utf8"
)

// Printable returns s with everything escaped, as Go does, that could steer a
// terminal, as what a guest says must not.
func Printable(s string) string {
	var b strings.Builder
	for len(s) > 0 {
		r, n := utf8.DecodeRuneInString(s)
		b.WriteString(Visible(r, s[:n]))
		s = s[n:]
	}
	return b.String()
}

// Visible returns the rune r that raw holds as it is, or, where it is a control
// character or no UTF-8, as a Go escape.
func Visible(r rune, raw string) string {
	switch {
	case r == utf8.RuneError && len(raw) == 1:
		return `\x` + strconv.FormatUint(uint64(raw[0]), 16)
	case strconv.IsPrint(r):
		return raw
	}
	quoted := strconv.QuoteRune(r)
	return quoted[1 : len(quoted)-1]
}
