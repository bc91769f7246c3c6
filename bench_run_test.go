package main_test

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"banger/store/kernel"
	"banger/store/kernel/initrd"
	"banger/testdata/host"
)

// How much more than a dedicated build of the guest's role the whole binary may
// cost in a guest before such a build must be embedded.
const (
	maxGuestDelay  = 10 * time.Millisecond
	maxGuestMemory = 16 << 20
)

// benchRun compares `vm run` with bare QEMU, and the binary as /init with one
// that is nothing but the guest's role.
//
// The end of the bare guest's way is that `true` has run in it and its exit code
// is known. Its disk is made before the clock starts, and the way to its death
// does not count. `vm run` does all of that too, and has a CLI, a tap and a jail
// besides.
func benchRun(b *testing.B, t *table) {
	h := benchHost(b, shipped(b))
	q := learn(b, h)
	dedicated := dedicatedInitrd(b)

	var full, small []booted
	const turns = 7
	times := inTurn(turns,
		func() time.Duration {
			return timed(b, func() error { h.Must(host.Root, "banger", "vm", "run", "--rm", "--", "true"); return nil })
		},
		func() time.Duration { got := q.boot(b, nil); full = append(full, got); return got.ran },
		func() time.Duration { got := q.boot(b, dedicated); small = append(small, got); return got.ran },
	)
	t.compare("vm run --rm -- true", times[0], "bare QEMU until true has run", times[1], 1.10)
	t.compare("  the same", times[0], "bare QEMU until the agent is ready", of(full, func(x booted) time.Duration { return x.ready }), 0)
	t.compare("bare QEMU until true has run", times[1], "dedicated guest build", times[2], 0)

	hello := of(full, func(x booted) time.Duration { return x.hello })
	helloSmall := of(small, func(x booted) time.Duration { return x.hello })
	t.compare("/init until it says hello", hello, "dedicated guest build", helloSmall, 0)
	t.add(row{"  the difference", ms(hello - helloSmall), "limit " + ms(maxGuestDelay),
		float64(hello-helloSmall) / float64(maxGuestDelay), 1})
	t.compare("  by the guest's own clock", of(full, func(x booted) time.Duration { return x.init }),
		"dedicated guest build", of(small, func(x booted) time.Duration { return x.init }), 0)
	used := of(full, func(x booted) int64 { return x.used })
	usedSmall := of(small, func(x booted) int64 { return x.used })
	t.add(row{"  guest memory used", mib(used), "dedicated guest build " + mib(usedSmall), float64(used) / float64(usedSmall), 0})
	t.add(row{"  the difference", mib(used - usedSmall), "limit " + mib(maxGuestMemory),
		float64(used-usedSmall) / maxGuestMemory, 1})
	size, sizeSmall := fileSize(b, q.files[q.initrd]), fileSize(b, dedicated)
	t.add(row{"  initrd", mib(size), "dedicated guest build " + mib(sizeSmall), float64(size) / float64(sizeSmall), 0})
	binary, err := os.Open(shipped(b))
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

// dedicatedInitrd is the usual kernel's initrd with a binary in it that is only
// the guest's role.
func dedicatedInitrd(b *testing.B) *os.File {
	b.Helper()
	small, err := stripped("guest", "./personas/guest/testdata/init")
	if err != nil {
		b.Fatal(err)
	}
	dir := filepath.Join(b.TempDir(), "kernel")
	info, err := kernel.Import(b.Context(), kernel.Source{Path: asset(b, "linux-image-cloud.deb")}, dir)
	if err != nil {
		b.Fatal(err)
	}
	init, err := os.Open(small)
	if err != nil {
		b.Fatal(err)
	}
	defer init.Close()
	out, err := os.Create(filepath.Join(b.TempDir(), "initrd"))
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { out.Close() })
	err = initrd.Build(out, initrd.Spec{
		Init: init, InitBytes: fileSize(b, init), Release: info.Release,
		Modules: os.DirFS(filepath.Join(dir, kernel.ModulesDir)), Boot: info.Modules.Boot, OnDemand: info.Modules.OnDemand,
	})
	if err != nil {
		b.Fatal(err)
	}
	return out
}
