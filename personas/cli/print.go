package cli

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"banger/personas/api"
)

// printJSON writes v as one indented document.
func (a *app) printJSON(v any) error {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	if err := e.Encode(v); err != nil {
		return fmt.Errorf("encode result: %w", err)
	}
	return a.write(jsonControls(b.String()))
}

// jsonControls escapes what JSON leaves alone and a terminal obeys: the control
// characters from U+007F to U+009F.
func jsonControls(s string) string {
	var b strings.Builder
	for _, r := range s {
		if r >= 0x7f && r <= 0x9f {
			fmt.Fprintf(&b, `\u%04x`, r)
			continue
		}
		b.WriteRune(r)
	}
	return b.String()
}

func (a *app) write(s string) error {
	if _, err := io.WriteString(a.out, s); err != nil {
		return fmt.Errorf("write result: %w", err)
	}
	return nil
}

// printTable writes rows below header, in columns.
func (a *app) printTable(header []string, rows [][]string) error {
	var b bytes.Buffer
	w := tabwriter.NewWriter(&b, 0, 0, 3, ' ', 0)
	for _, row := range append([][]string{header}, rows...) {
		cells := make([]string, len(row))
		for i, cell := range row {
			cells[i] = oneLine(cell)
		}
		fmt.Fprintln(w, strings.Join(cells, "\t"))
	}
	w.Flush()
	return a.write(trimLines(b.String()))
}

// printFields writes one thing: a line for each field that is not empty.
func (a *app) printFields(fields [][2]string) error {
	var b bytes.Buffer
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	for _, f := range fields {
		if f[1] != "" {
			fmt.Fprintf(w, "%s:\t%s\n", f[0], oneLine(f[1]))
		}
	}
	w.Flush()
	return a.write(b.String())
}

// printNames writes one name a line.
func (a *app) printNames(names []string) error {
	var b strings.Builder
	for _, n := range names {
		b.WriteString(oneLine(n) + "\n")
	}
	return a.write(b.String())
}

func trimLines(s string) string {
	lines := strings.SplitAfter(s, "\n")
	for i, l := range lines {
		if t := strings.TrimRight(l, " \n"); t != l && strings.HasSuffix(l, "\n") {
			lines[i] = t + "\n"
		}
	}
	return strings.Join(lines, "")
}

// age says how long ago t was.
func age(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	switch d := time.Since(t); {
	case d < time.Minute:
		return fmt.Sprintf("%ds", max(0, int(d.Seconds())))
	case d < time.Hour:
		return fmt.Sprintf("%dm", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh", int(d.Hours()))
	default:
		return fmt.Sprintf("%dd", int(d.Hours()/24))
	}
}

func timestamp(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.Local().Format(time.RFC3339)
}

// shortDigest is the digest as lists show it.
func shortDigest(d string) string {
	d = strings.TrimPrefix(d, "sha256:")
	return d[:min(12, len(d))]
}

func yes(b bool) string {
	if b {
		return "yes"
	}
	return ""
}

// notice tells the user something that is neither result nor failure.
func (a *app) notice(format string, args ...any) {
	if !a.quiet {
		fmt.Fprintf(a.err, "banger: %s\n", printable(fmt.Sprintf(format, args...)))
	}
}

// vmState is the state as lists show it.
func vmState(vm api.VM) string {
	if vm.Emulated && vm.State == api.Running {
		return string(vm.State) + " (emulated)"
	}
	return string(vm.State)
}
