package vmm

import (
	"fmt"
	"math"

	"banger/fc"
)

// throttle is QEMU's form of a rate limit: an average per second and the most that may
// come at once. Zero is no limit.
type throttle struct {
	average, burst uint64
}

// isLimit tells whether a bucket limits anything; Firecracker switches it off by zeros.
func isLimit(b *fc.TokenBucket) bool { return b != nil && b.Size > 0 && b.RefillMillis > 0 }

// throttleOf is b in QEMU's terms. A bucket that takes longer than a second to fill may be
// emptied at once; a bucket that is filled often is just its average. QEMU has nothing like
// a burst that comes once, so OneTimeBurst is not honoured.
func throttleOf(b *fc.TokenBucket) throttle {
	if !isLimit(b) {
		return throttle{}
	}
	// QEMU takes at most this; so much is no limit anyway.
	const most = 1e15
	perSecond := math.Ceil(float64(b.Size) * 1000 / float64(b.RefillMillis))
	t := throttle{average: uint64(min(perSecond, most))}
	if b.Size > t.average {
		t.burst = min(b.Size, most)
	}
	return t
}

// throttleGroup is the object that drive index goes through, limited as l says or not.
func throttleGroup(index int, l *fc.RateLimiter) string {
	object := "throttle-group,id=" + groupName(index)
	if l == nil {
		return object
	}
	for name, t := range map[string]throttle{"bps-total": throttleOf(l.Bandwidth), "iops-total": throttleOf(l.Ops)} {
		if t.average > 0 {
			object += fmt.Sprintf(",x-%s=%d", name, t.average)
		}
		if t.burst > 0 {
			object += fmt.Sprintf(",x-%s-max=%d", name, t.burst)
		}
	}
	return object
}

// limits is what the group of a running drive is set to.
func limits(l fc.RateLimiter) map[string]uint64 {
	bytes, ops := throttleOf(l.Bandwidth), throttleOf(l.Ops)
	return map[string]uint64{
		"bps-total": bytes.average, "bps-total-max": bytes.burst,
		"iops-total": ops.average, "iops-total-max": ops.burst,
	}
}
