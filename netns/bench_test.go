package netns

import (
	"testing"
	"time"
)

// BenchmarkEnsure makes a network and takes it down.
func BenchmarkEnsure(b *testing.B) {
	_, cfg := newHost(b)
	var made, removed timer
	for b.Loop() {
		stop := made.start()
		n, err := Ensure(b.Context(), cfg)
		stop()
		must(b, err)
		stop = removed.start()
		must(b, n.Remove(b.Context()))
		stop()
		n.Close()
	}
	made.report(b, "ms/ensure")
	removed.report(b, "ms/remove")
}

// BenchmarkTap makes and removes a tap, alone and beside many.
func BenchmarkTap(b *testing.B) {
	for name, others := range map[string]int{"first": 0, "hundredth": 99} {
		b.Run(name, func(b *testing.B) {
			_, cfg := newHost(b)
			n := ensure(b, cfg)
			for slot := range others {
				must(b, n.CreateTap(b.Context(), Tap{Slot: slot, VMID: "other", Policy: Internet}))
			}
			var made, removed timer
			for b.Loop() {
				stop := made.start()
				must(b, n.CreateTap(b.Context(), Tap{Slot: others, VMID: "a", Policy: Internet}))
				stop()
				stop = removed.start()
				must(b, n.RemoveTap(b.Context(), others))
				stop()
			}
			made.report(b, "ms/create")
			removed.report(b, "ms/remove")
		})
	}
}

// timer adds up the time of one of several steps of an iteration.
type timer struct {
	total time.Duration
	count int
}

// start returns the function that ends the measurement.
func (t *timer) start() func() {
	begun := time.Now()
	return func() { t.total += time.Since(begun); t.count++ }
}

func (t *timer) report(b *testing.B, unit string) {
	b.ReportMetric(t.total.Seconds()*1000/float64(max(1, t.count)), unit)
}
