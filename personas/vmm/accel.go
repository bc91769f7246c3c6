package vmm

import (
	"context"

	"banger/fc/kvm"
)

// useKVM tells whether the guest can be run by KVM, by trying. In a jail without /dev/kvm,
// which is where this role is started when KVM is of no use, it costs nothing.
func (m *machine) useKVM(ctx context.Context) bool {
	report := kvm.Probe(ctx)
	if report.State == kvm.Usable {
		m.log.Info("guest is run by KVM", "kvm", report.Detail)
		return true
	}
	m.log.Info("guest is emulated, which is slow", "kvm", string(report.State), "detail", report.Detail)
	return false
}
