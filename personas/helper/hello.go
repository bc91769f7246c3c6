package helper

import (
	"context"
	"os"
	"sync"

	"banger/fc/jail"
	"banger/fc/kvm"
	"banger/ops"
	"banger/personas"
)

// probeKVM asks once what KVM is worth: it does not change while a host runs,
// but for a module that is loaded, which the next helper sees.
var probeKVM = sync.OnceValue(func() kvm.Report { return kvm.Probe(context.Background()) })

// hello tells who this is and what a VM would find here.
func (m *machines) hello(context.Context, *ops.Call, ops.None) (ops.HelloReply, []*os.File, error) {
	version, _, _ := personas.BuildInfo()
	plan := m.net.Plan()
	_, err := jail.Resolve("firecracker", m.firecracker)
	return ops.HelloReply{
		Version: version, PID: os.Getpid(),
		Prefix: plan.Link().String(), Gateway: plan.Gateway().String(), Host: plan.UplinkHost().String(),
		KVM: string(probeKVM().State), Firecracker: err == nil, Snapshots: m.snapshotsWord(),
	}, nil, nil
}
