// Package checkup is where the checks of package install meet the probes that
// other packages know best, for "banger doctor" and "banger system inventory".
package checkup

import (
	"context"
	"fmt"
	"strings"

	"banger/fc/kvm"
	"banger/install/doctor"
	"banger/install/inventory"
	"banger/store/disk"
)

// FirstUID and UIDs are the range of the VMs' users.
const (
	FirstUID = 0x70ba0000
	UIDs     = 4096
)

// Scope is where the inventory looks besides the usual places.
var Scope = inventory.Scope{Jails: []string{"/run/banger-helper/jails"}, FirstUID: FirstUID, UIDs: UIDs}

// Host is the host to look at, with the probes.
var Host = doctor.Host{KVM: checkKVM, Disks: checkDisks}

// checkKVM judges what a probe found: without KVM VMs work, and are slow.
func checkKVM(ctx context.Context) doctor.Result {
	r := kvm.Probe(ctx)
	result := doctor.Result{Status: doctor.Warn, Detail: string(r.State) + ": " + r.Detail}
	switch r.State {
	case kvm.Usable:
		result.Status = doctor.OK
	case kvm.Missing:
		result.Hint = "enable virtualization in the firmware, and load kvm_intel or kvm_amd; VMs are emulated until then"
	case kvm.NoPermission:
		result.Status = doctor.Info
		result.Hint = "run this as root to see what VMs get; they do not need your permission"
	case kvm.Unusable:
		result.Hint = "the host's own hypervisor does not offer nested virtualization; VMs are emulated"
	}
	return result
}

// checkDisks judges the disk backends: all but copy cost nothing.
func checkDisks(_ context.Context, dir string) doctor.Result {
	findings, err := disk.Probe(dir)
	if err != nil {
		return doctor.Result{Status: doctor.Fail, Detail: err.Error(), Hint: "give banger a directory that it can write"}
	}
	var works []string
	for _, f := range findings {
		if f.Err == nil {
			works = append(works, string(f.Backend))
		}
	}
	if len(works) == 0 {
		return doctor.Result{Status: doctor.Fail, Detail: "no backend works in " + dir, Hint: "use another file system for " + dir}
	}
	return doctor.Result{Status: doctor.OK, Detail: fmt.Sprintf("%s works in %s; %s is used", strings.Join(works, ", "), dir, disk.Choose(findings))}
}
