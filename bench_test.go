package main_test

import (
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
	"testing"
	"time"

	"banger/personas/api"
	"banger/testdata/host"
)

// BenchmarkBanger measures what banger costs and prints, as the last thing, a
// table of it: each figure beside what it is compared with, their ratio and its
// goal. Both sides of a comparison are measured in turn, and the medians count,
// so that what else the machine does hits both alike.
func BenchmarkBanger(b *testing.B) {
	host.Require(b)
	t := table{busy: load(b)}
	for _, part := range []struct {
		name    string
		measure func(*testing.B, *table)
	}{
		{"run", benchRun},
		{"control", benchControl},
		{"import", benchImport},
		{"disk", benchDisk},
		{"exec", benchExec},
		{"cli", benchCLI},
		{"idle", benchIdle},
	} {
		b.Run(part.name, func(b *testing.B) {
			b.ReportMetric(0, "ns/op") // the table says what was measured
			part.measure(b, &t)
		})
	}
	t.print(os.Stdout)
}

// load is how many processes of the machine wanted to run of late.
func load(b *testing.B) (average float64) {
	b.Helper()
	text, err := os.ReadFile("/proc/loadavg")
	if err == nil {
		_, err = fmt.Sscan(string(text), &average)
	}
	if err != nil {
		b.Fatal(err)
	}
	return average
}

// A row is one line of the table. A figure without a goal is told for its own
// sake.
type row struct {
	name, figure string
	against      string  // what the figure is compared with
	ratio, goal  float64 // goal is the most that ratio may be; zero is none
}

type table struct {
	rows []row
	busy float64 // the machine's load before anything was measured
}

func (t *table) add(r row) { t.rows = append(t.rows, r) }

// compare adds a row for two durations.
func (t *table) compare(name string, took time.Duration, what string, other time.Duration, goal float64) {
	t.add(row{name, ms(took), what + " " + ms(other), float64(took) / float64(other), goal})
}

// tell adds a row for a figure that is compared with nothing.
func (t *table) tell(name, format string, args ...any) {
	t.add(row{name: name, figure: fmt.Sprintf(format, args...)})
}

func (t *table) print(w io.Writer) {
	if len(t.rows) == 0 {
		return
	}
	const line = "%-42s %12s  %-42s %7s %6s  %s\n"
	fmt.Fprintf(w, "\n"+line, "what", "figure", "against", "ratio", "goal", "met")
	for _, r := range t.rows {
		ratio, goal, met := "", "", ""
		if r.ratio > 0 {
			ratio = fmt.Sprintf("%.2f", r.ratio)
		}
		if r.goal > 0 {
			goal, met = fmt.Sprintf("%.2f", r.goal), "no"
			if r.ratio <= r.goal {
				met = "yes"
			}
		}
		fmt.Fprintf(w, line, r.name, r.figure, r.against, ratio, goal, met)
	}
	fmt.Fprintf(w, "load of the machine before: %.2f on %d CPUs; above 0.5 the figures tell of others too\n\n", t.busy, runtime.NumCPU())
}

func ms(d time.Duration) string { return fmt.Sprintf("%.1f ms", float64(d.Microseconds())/1000) }

func mib(bytes int64) string { return fmt.Sprintf("%.1f MiB", float64(bytes)/(1<<20)) }

// inTurn does each of acts n times, and returns the median of the times that
// each tells. Who begins changes from turn to turn, so that none is always the
// one that comes after another's clearing away.
func inTurn(n int, acts ...func() time.Duration) []time.Duration {
	times := make([][]time.Duration, len(acts))
	for turn := range n {
		for i := range acts {
			at := (turn + i) % len(acts)
			times[at] = append(times[at], acts[at]())
		}
	}
	medians := make([]time.Duration, len(acts))
	for i := range times {
		medians[i] = median(times[i])
	}
	return medians
}

func median[T int64 | time.Duration](values []T) T {
	slices.Sort(values)
	return values[len(values)/2]
}

// timed is the time that act takes. An error ends the benchmark.
func timed(b *testing.B, act func() error) time.Duration {
	b.Helper()
	begin := time.Now()
	err := act()
	took := time.Since(begin)
	if err != nil {
		b.Fatal(err)
	}
	return took
}

// benchHost makes a host for the binary at banger, with the usual kernel and
// image, whose daemons are up.
func benchHost(b *testing.B, banger string) *host.Host {
	b.Helper()
	h := host.New(b, host.Config{Banger: banger, Seed: seed(b)})
	b.Cleanup(func() {
		if b.Failed() {
			tellLogs(b, h)
		}
		for _, vm := range vmNames(b, h) {
			h.Must(host.Root, "banger", "vm", "delete", "--force", vm)
		}
		h.StopDaemons()
	})
	h.Must(host.Root, "banger", "image", "list")
	return h
}

func vmNames(t testing.TB, h *host.Host) []string {
	t.Helper()
	vms, err := client(h).VMs(t.Context())
	if err != nil {
		return nil // no daemon, no VM
	}
	var names []string
	for _, vm := range vms {
		names = append(names, vm.Name)
	}
	return names
}

// client returns a client of the host's daemon.
func client(h *host.Host) *api.Client {
	return api.New(h.Path("/run/banger/bangerd.sock"), "")
}
