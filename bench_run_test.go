package main_test

import (
	"os"
	"testing"
	"time"

	"banger/testdata/host"
)

// benchRun compares `vm run` with bare QEMU.
//
// The end of the bare guest's way is that `true` has run in it and its exit code
// is known. Its disk is made before the clock starts, and the way to its death
// does not count. `vm run` does all of that too, and has a CLI, a tap and a jail
// besides.
func benchRun(b *testing.B, t *table) {
	h := benchHost(b, banger(b))
	q := learn(b, h)

	var bare []booted
	times := inTurn(9,
		func() time.Duration {
			return timed(b, func() error { h.Must(host.Root, "banger", "vm", "run", "--rm", "--", "true"); return nil })
		},
		func() time.Duration { got := q.boot(b); bare = append(bare, got); return got.ran },
	)
	t.compare("vm run --rm -- true", times[0], "bare QEMU until true has run", times[1], 1.10)
	t.compare("  the same", times[0], "bare QEMU until the agent is ready", of(bare, func(x booted) time.Duration { return x.ready }), 0)
	t.tell("/init says hello", "%s", ms(of(bare, func(x booted) time.Duration { return x.hello })))
	t.tell("  by the guest's own clock", "%s", ms(of(bare, func(x booted) time.Duration { return x.init })))
	t.tell("  guest memory used", "%s", mib(of(bare, func(x booted) int64 { return x.used })))
	t.tell("  initrd", "%s", mib(fileSize(b, q.files[q.initrd])))
	binary, err := os.Open(banger(b))
	if err != nil {
		b.Fatal(err)
	}
	defer binary.Close()
	t.tell("static binary", "%s", mib(fileSize(b, binary)))
}

// of is the median of one figure.
func of[T int64 | time.Duration](runs []booted, figure func(booted) T) T {
	var values []T
	for _, r := range runs {
		values = append(values, figure(r))
	}
	return median(values)
}

func fileSize(b *testing.B, f *os.File) int64 {
	b.Helper()
	info, err := f.Stat()
	if err != nil {
		b.Fatal(err)
	}
	return info.Size()
}
