package vmm

import (
	"context"

	"banger/fc/kvm"
)

// useKVM tells whether the guest can be run by KVM, by trying. In a jail that has no
// /dev/kvm, which is where this role is started when KVM is of no use, it costs nothing.
func (m *machine) useKVM(ctx context.Context) bool {
	report := kvm.Probe(ctx, kvm.Device)
	if report.State == kvm.Usable {
		m.log.Info("guest is run by KVM", "probe", report.String())
		return true
	}
	m.log.Warn("guest is emulated, which is slow", "kvm", report.String())
	return false
}
