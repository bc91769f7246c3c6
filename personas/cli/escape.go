package cli

import (
	"io"
	"unicode/utf8"

	"banger/personas/guest/link/frame"
)

// escaper makes what passes through it harmless for a terminal: control
// characters are shown, not obeyed. Line breaks and tabs pass.
type escaper struct {
	w io.Writer
	// rest holds bytes that may be the start of a character or of a line end.
	rest []byte
}

// Write implements io.Writer.
func (e *escaper) Write(p []byte) (int, error) {
	data := append(e.rest, p...)
	out := make([]byte, 0, len(data)+16)
	for len(data) > 0 {
		if data[0] == '\r' && len(data) == 1 || !utf8.FullRune(data) {
			break
		}
		r, n := utf8.DecodeRune(data)
		switch {
		case r == '\r' && data[1] == '\n': // a line end of a serial console
		case r == '\n' || r == '\t':
			out = append(out, byte(r))
		default:
			out = append(out, frame.Visible(r, string(data[:n]))...)
		}
		data = data[n:]
	}
	e.rest = append([]byte(nil), data...)
	if _, err := e.w.Write(out); err != nil {
		return 0, err
	}
	return len(p), nil
}

// Close shows what is left of an unfinished character. It does not close the
// writer below.
func (e *escaper) Close() error {
	if len(e.rest) == 0 {
		return nil
	}
	var out []byte
	for _, b := range e.rest {
		r, _ := utf8.DecodeRune([]byte{b})
		out = append(out, frame.Visible(r, string([]byte{b}))...)
	}
	e.rest = nil
	_, err := e.w.Write(out)
	return err
}
