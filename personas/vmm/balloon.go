package vmm

import (
	"context"
	"fmt"

	"banger/fc"
	"banger/personas/vmm/qmp"
)

// balloonDevice is the name of the balloon in QEMU.
const balloonDevice = "balloon"

// startBalloon gives a fresh balloon its size and its questions.
func startBalloon(ctx context.Context, q *qmp.Conn, config fc.VMConfig) error {
	b := config.Balloon
	if b.StatsIntervalSeconds > 0 {
		if err := setStatsInterval(ctx, q, b.StatsIntervalSeconds); err != nil {
			return err
		}
	}
	if b.AmountMiB == 0 {
		return nil
	}
	return setBalloon(ctx, q, config, b.AmountMiB)
}

// setBalloon makes the balloon take amount MiB; QEMU is told what is left.
func setBalloon(ctx context.Context, q *qmp.Conn, config fc.VMConfig, amountMiB int) error {
	left := int64(config.MachineConfig.MemSizeMiB-amountMiB) << 20
	// QEMU refuses zero; a guest has no use for so little anyway.
	left = max(left, 1<<20)
	return q.Execute(ctx, "balloon", map[string]int64{"value": left}, nil)
}

func setStatsInterval(ctx context.Context, q *qmp.Conn, seconds int) error {
	return q.Execute(ctx, "qom-set", map[string]any{
		"path": "/machine/peripheral/" + balloonDevice, "property": "guest-stats-polling-interval", "value": seconds,
	}, nil)
}

// BalloonStats implements server.Machine.
func (m *machine) BalloonStats(ctx context.Context) (fc.BalloonStats, error) {
	var guest struct {
		Stats map[string]uint64 `json:"stats"`
	}
	err := m.qmp.Execute(ctx, "qom-get", map[string]string{
		"path": "/machine/peripheral/" + balloonDevice, "property": "guest-stats",
	}, &guest)
	if err != nil {
		return fc.BalloonStats{}, err
	}
	var balloon struct {
		Actual uint64 `json:"actual"`
	}
	if err := m.qmp.Execute(ctx, "query-balloon", nil, &balloon); err != nil {
		return fc.BalloonStats{}, err
	}
	memory := uint64(m.config.MachineConfig.MemSizeMiB) << 20
	if balloon.Actual > memory {
		return fc.BalloonStats{}, fmt.Errorf("qemu says that the guest has %d of %d bytes", balloon.Actual, memory)
	}
	actual, target := memory-balloon.Actual, uint64(m.balloonMiB)<<20
	// QEMU tells what the guest did not as the highest number.
	told := func(name string) uint64 {
		if v := guest.Stats["stat-"+name]; v != ^uint64(0) {
			return v
		}
		return 0
	}
	return fc.BalloonStats{
		TargetPages: target >> 12, ActualPages: actual >> 12, TargetMiB: target >> 20, ActualMiB: actual >> 20,
		SwapIn: told("swap-in"), SwapOut: told("swap-out"),
		MajorFaults: told("major-faults"), MinorFaults: told("minor-faults"),
		FreeMemory: told("free-memory"), TotalMemory: told("total-memory"),
		AvailableMemory: told("available-memory"), DiskCaches: told("disk-caches"),
		HugetlbAllocations: told("htlb-pgalloc"), HugetlbFailures: told("htlb-pgfail"),
	}, nil
}
