package vmm

import "time"

// rdtsc reads the time stamp counter, not before what comes before it.
func rdtsc() uint64

// tscClock measures how fast the time stamp counter runs. An emulated guest sees the
// host's counter; told a wrong speed, or none, it keeps wrong time or hangs at boot while
// it tries to find out. What /proc/cpuinfo says is the core's speed of the moment, so the
// counter is compared with the clock, from the role's start on: by the time that a machine
// starts the measuring has cost nobody anything.
type tscClock struct {
	start sample
}

// sample is both clocks at one moment.
type sample struct {
	at      time.Time
	counter uint64
}

// minMeasure is how long the clocks are compared at least. A reading is good to some ten
// nanoseconds, so this bounds the error to a few parts in a million.
const minMeasure = 10 * time.Millisecond

func startTSCClock() *tscClock { return &tscClock{takeSample()} }

// takeSample reads the clock between two readings of the counter, and of several tries
// keeps that in which the least time passed.
func takeSample() sample {
	var best sample
	shortest := ^uint64(0)
	for range 8 {
		before := rdtsc()
		at := time.Now()
		after := rdtsc()
		if took := after - before; took < shortest {
			shortest, best = took, sample{at, before + took/2}
		}
	}
	return best
}

// kHz returns the counter's speed in kilohertz. It sleeps for what is missing to a good
// measurement.
func (c *tscClock) kHz() uint64 {
	time.Sleep(minMeasure - time.Since(c.start.at))
	end := takeSample()
	return (end.counter - c.start.counter) * uint64(time.Millisecond) / uint64(end.at.Sub(c.start.at))
}
