package cli

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"time"

	"banger/personas/api"
)

const (
	tailBytes   = 16 << 10
	tailLines   = 20
	tailTimeout = 5 * time.Second
)

// tail keeps the last bytes that were written to it.
type tail struct{ buf []byte }

// Write implements io.Writer.
func (t *tail) Write(p []byte) (int, error) {
	t.buf = append(t.buf, p[max(0, len(p)-tailBytes):]...)
	t.buf = t.buf[max(0, len(t.buf)-tailBytes):]
	return len(p), nil
}

// lines returns the last lines, at most n.
func (t *tail) lines(n int) []string {
	text := strings.TrimRight(string(bytes.ReplaceAll(t.buf, []byte("\r\n"), []byte("\n"))), "\n")
	if text == "" {
		return nil
	}
	lines := strings.Split(text, "\n")
	return lines[max(0, len(lines)-n):]
}

// printLastLogs prints the end of the serial console: the evidence of a boot
// that went wrong.
func (a *app) printLastLogs(ctx context.Context, client *api.Client, vm string) {
	ctx, cancel := context.WithTimeout(ctx, tailTimeout)
	defer cancel()
	var t tail
	// What cannot be read is no evidence; the reason was printed before.
	_ = client.Logs(ctx, vm, false, &t)
	lines := t.lines(tailLines)
	if len(lines) == 0 {
		return
	}
	fmt.Fprintln(a.err, "the last lines of the serial console:")
	for _, l := range lines {
		fmt.Fprintln(a.err, "  | "+printable(l))
	}
}
