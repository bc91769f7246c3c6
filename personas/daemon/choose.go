package daemon

import (
	"errors"
	"log/slog"
	"slices"

	"banger/ops"
	"banger/personas/api"
	storedisk "banger/store/disk"
	"banger/store/disk/cow"
)

// chooseVMM takes Firecracker where it can run, unless told otherwise.
func chooseVMM(hello ops.HelloReply, want api.VMM) (vmm api.VMM, emulated bool, err error) {
	usable := hello.KVM == ops.KVMUsable
	switch {
	case want == api.VMMQEMU:
		return api.VMMQEMU, !usable, nil
	case want == api.VMMFirecracker && !usable:
		return "", false, &api.Error{Code: api.CodeUsage, Message: "firecracker needs KVM, which here is " + hello.KVM,
			HintText: "see \"banger doctor\"; --vmm qemu works without"}
	case want == api.VMMFirecracker, usable && hello.Firecracker:
		return api.VMMFirecracker, false, nil
	}
	return api.VMMQEMU, !usable, nil
}

// chooseBackend takes the best backend that works for an image of this size, unless
// told otherwise.
func (d *Daemon) chooseBackend(hello ops.HelloReply, want api.Backend, imageBytes int64) (api.Backend, error) {
	findings := d.backends(hello, imageBytes)
	if want == "" || want == api.BackendAuto {
		return api.Backend(storedisk.Choose(findings)), nil
	}
	for _, f := range findings {
		if f.Backend != storedisk.Backend(want) || f.Err == nil {
			continue
		}
		refused := &api.Error{Code: api.CodeUsage, Message: "backend " + string(want) + ": " + f.Err.Error(), HintText: "use --backend overlay"}
		if want == api.BackendReflink {
			refused.Message = "backend reflink: the file system of " + d.store.Dir + " cannot share blocks"
			refused.HintText += ", or keep banger's state on xfs or btrfs"
		}
		return "", refused
	}
	return want, nil
}

// backends tells what works for an image: in the store, as probed when it was needed
// first, and of the kernel, as the helper says.
func (d *Daemon) backends(hello ops.HelloReply, imageBytes int64) []storedisk.Finding {
	findings := slices.Clone(d.probeDisks())
	for i, f := range findings {
		switch {
		case f.Backend != storedisk.Snapshot || f.Err != nil:
		case hello.Snapshots != ops.SnapshotsWork:
			findings[i].Err = errors.New(hello.Snapshots)
		case imageBytes%cow.ChunkBytes != 0:
			findings[i].Err = errors.New("the image is not made of whole blocks of 4096 bytes")
		}
	}
	return findings
}

// probeBackends probes which disk backends work in dir, whatever the kernel lacks for
// snapshots.
func probeBackends(log *slog.Logger, dir string) []storedisk.Finding {
	findings, err := storedisk.Probe(dir, nil)
	if err != nil {
		log.Warn("probe disk backends, ignoring", "error", err)
		return nil // which leaves overlay: it works everywhere
	}
	return findings
}
