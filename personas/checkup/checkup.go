// Package checkup is where the checks of package install meet the probes that
// other packages know best, for "banger doctor" and "banger system inventory".
package checkup

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"banger/fc/kvm"
	"banger/install/doctor"
	"banger/install/inventory"
	"banger/install/layout"
	"banger/personas/daemon"
	"banger/store/disk"
	"banger/store/disk/cow"
)

// FirstUID and UIDs are the range of the VMs' users.
const (
	FirstUID = 0x70ba0000
	UIDs     = 4096
)

// Scope is where the inventory looks besides the usual places.
var Scope = inventory.Scope{Jails: []string{"/run/banger-helper/jails"}, FirstUID: FirstUID, UIDs: UIDs}

// Host is the host to look at, with the probes.
var Host = doctor.Host{KVM: checkKVM, Disks: checkDisks, Records: checkRecords}

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
	snapshots := cow.Loaded()
	if _, err := os.Stat(layout.Metadata); errors.Is(err, fs.ErrNotExist) {
		snapshots = cow.ErrUnguarded
	}
	findings, err := disk.Probe(dir, snapshots)
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

// checkRecords judges what lies in a state directory: beside damaged records a
// daemon runs, without what they are of.
func checkRecords(_ context.Context, dir string) doctor.Result {
	damaged, err := daemon.Damaged(dir)
	if err != nil {
		return doctor.Result{Status: doctor.Info, Detail: "not looked at: " + err.Error(), Hint: "run this as root, or as the owner of " + dir}
	}
	if len(damaged) == 0 {
		return doctor.Result{Status: doctor.OK, Detail: "all can be read in " + dir}
	}
	var what, giveUp []string
	for _, d := range damaged {
		what, giveUp = append(what, d.Err.Error()), append(giveUp, d.GiveUp)
	}
	return doctor.Result{
		Status: doctor.Fail, Detail: fmt.Sprintf("%d cannot be read: %s", len(damaged), strings.Join(what, "; ")),
		Hint: "put record.json back from a backup and restart bangerd, or give up what it is of: " + strings.Join(giveUp, "; "),
	}
}
