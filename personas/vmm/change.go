package vmm

import (
	"context"
	"fmt"

	"banger/fc"
	"banger/fc/server"
)

// Change implements server.Machine.
func (m *machine) Change(ctx context.Context, r fc.Request) error {
	switch r := r.(type) {
	case fc.VM:
		if r.State == fc.Paused {
			return m.qmp.Execute(ctx, "stop", nil, nil)
		}
		return m.qmp.Execute(ctx, "cont", nil, nil)
	case fc.Action:
		if r.Type == fc.FlushMetrics {
			return m.flushMetrics(ctx)
		}
		return m.pressCtrlAltDel(ctx)
	case fc.DriveUpdate:
		return m.changeDrive(ctx, r)
	case fc.NetworkUpdate:
		if hasLimit(r.RxRateLimiter) || hasLimit(r.TxRateLimiter) {
			return server.Unsupported("rate limits on network interfaces")
		}
		return nil
	case fc.BalloonUpdate:
		if err := setBalloon(ctx, m.qmp, m.config, r.AmountMiB); err != nil {
			return err
		}
		m.balloonMiB = r.AmountMiB
		return nil
	case fc.BalloonStatsUpdate:
		return setStatsInterval(ctx, m.qmp, r.IntervalSeconds)
	case fc.SnapshotCreate:
		return server.Unsupported("snapshots")
	}
	return server.Unsupported(fmt.Sprintf("%T", r))
}

func (m *machine) pressCtrlAltDel(ctx context.Context) error {
	type key struct {
		Type string `json:"type"`
		Data string `json:"data"`
	}
	return m.qmp.Execute(ctx, "send-key", map[string]any{
		"keys": []key{{"qcode", "ctrl"}, {"qcode", "alt"}, {"qcode", "delete"}},
	}, nil)
}
