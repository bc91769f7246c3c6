package server

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"net"
	"slices"
	"strings"

	"banger/fc"
)

// validate checks what a body alone can tell: names out of a fixed set, and numbers that
// must fit. It stands in for what the types of Firecracker's own decoder refuse.
func validate(r fc.Request) error {
	switch r := r.(type) {
	case fc.Action:
		return oneOf(string(r.Type), "FlushMetrics", "InstanceStart", "SendCtrlAltDel")
	case fc.VM:
		return oneOf(string(r.State), "Paused", "Resumed")
	case fc.MachineConfig:
		return validateMachine(r.HugePages, r.CPUTemplate)
	case fc.MachineUpdate:
		var pages, template string
		set(&pages, r.HugePages)
		set(&template, r.CPUTemplate)
		return validateMachine(pages, template)
	case fc.Drive:
		return cmp.Or(optional(string(r.CacheType), "Unsafe", "Writeback"), optional(r.IOEngine, "Sync", "Async"))
	case fc.NetworkInterface:
		return validateNetwork(r)
	case fc.Balloon:
		return cmp.Or(inRange(r.AmountMiB, math.MaxUint32), inRange(r.StatsIntervalSeconds, math.MaxUint16))
	case fc.BalloonUpdate:
		return inRange(r.AmountMiB, math.MaxUint32)
	case fc.BalloonStatsUpdate:
		return inRange(r.IntervalSeconds, math.MaxUint16)
	case fc.Logger:
		return optional(strings.ToLower(r.Level), "error", "warning", "warn", "info", "debug", "trace", "off")
	case fc.SnapshotCreate:
		return optional(r.Type, "Full", "Diff")
	case fc.SnapshotLoad:
		return validateSnapshotLoad(r)
	}
	return nil
}

func validateMachine(hugePages, template string) error {
	return cmp.Or(
		optional(hugePages, "None", "Transparent", "2M"),
		optional(template, "C3", "T2", "T2S", "T2CL", "T2A", "V1N1", "None"),
	)
}

func validateNetwork(n fc.NetworkInterface) error {
	if n.GuestMAC != "" {
		// ParseMAC knows longer addresses and other separators too.
		if mac, err := net.ParseMAC(n.GuestMAC); err != nil || len(mac) != 6 || len(n.GuestMAC) != 17 || n.GuestMAC[2] != ':' {
			return fmt.Errorf("invalid MAC address %q", n.GuestMAC)
		}
	}
	if n.MTU == 0 {
		return nil
	}
	// The least that IPv4 allows, and the highest that virtio can say.
	if n.MTU < 68 {
		return fmt.Errorf("invalid value: integer `%d`", n.MTU)
	}
	return inRange(n.MTU, math.MaxUint16)
}

func validateSnapshotLoad(r fc.SnapshotLoad) error {
	if r.MemBackend != nil && r.MemFilePath != "" {
		return errors.New("too many fields: either `mem_backend` or `mem_file_path` exclusively is required")
	}
	if r.MemBackend == nil && r.MemFilePath == "" {
		return errors.New("missing field: either `mem_backend` or `mem_file_path` is required")
	}
	if r.MemBackend != nil {
		if err := oneOf(r.MemBackend.Type, "File", "Uffd"); err != nil {
			return err
		}
	}
	return optional(r.HugePages, "Snapshot", "None", "Transparent", "2M")
}

// isDeprecated tells the requests that Firecracker answers with a Deprecation header.
func isDeprecated(r fc.Request) bool {
	switch r := r.(type) {
	case fc.Vsock:
		return r.ID != ""
	case fc.MachineConfig:
		return r.CPUTemplate != ""
	case fc.MachineUpdate:
		return r.CPUTemplate != nil
	case fc.SnapshotLoad:
		return r.MemFilePath != "" || r.EnableDiffSnapshots
	}
	return false
}

func oneOf(value string, variants ...string) error {
	if slices.Contains(variants, value) {
		return nil
	}
	return fmt.Errorf("unknown variant `%s`, expected one of `%s`", value, strings.Join(variants, "`, `"))
}

func optional(value string, variants ...string) error {
	if value == "" {
		return nil
	}
	return oneOf(value, variants...)
}

func inRange(value, highest int) error {
	if value < 0 || value > highest {
		return fmt.Errorf("invalid value: integer `%d`", value)
	}
	return nil
}
