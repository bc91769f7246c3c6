package server

import (
	"errors"
	"fmt"
	"slices"

	"banger/fc"
)

// configure is vm with r in it. It touches nothing that vm holds.
func configure(vm fc.VMConfig, r fc.Request) (fc.VMConfig, error) {
	switch r := r.(type) {
	case fc.MachineConfig:
		if vm.Balloon != nil && r.MemSizeMiB < vm.Balloon.AmountMiB {
			return vm, errors.New("The memory size (MiB) is smaller than the previously set balloon device target size.")
		}
		vm.MachineConfig = &r
		return vm, checkMachine(r)
	case fc.BootSource:
		vm.BootSource = r
		return vm, checkBootArgs(r.BootArgs)
	case fc.Drive:
		return configureDrive(vm, r)
	case fc.NetworkInterface:
		return configureNetwork(vm, r)
	case fc.Vsock:
		// The first three are the hypervisor's, the loopback's and the host's.
		if r.GuestCID < 3 {
			return vm, fmt.Errorf("guest_cid %d is reserved", r.GuestCID)
		}
		// The id is deprecated and not told to those who ask, as in Firecracker.
		r.ID = ""
		vm.Vsock = &r
	case fc.Balloon:
		if r.AmountMiB > vm.MachineConfig.MemSizeMiB {
			return vm, errors.New("Amount of pages requested is too large.")
		}
		vm.Balloon = &r
	case fc.Entropy:
		vm.Entropy = &r
	case fc.Logger:
		vm.Logger = &r
	case fc.Metrics:
		if vm.Metrics != nil {
			return vm, errors.New("Reinitialization of metrics not allowed.")
		}
		vm.Metrics = &r
	}
	return vm, nil
}

func checkMachine(m fc.MachineConfig) error {
	const maxVCPUs = 32
	if m.VCPUCount < 1 || m.VCPUCount > maxVCPUs || m.SMT && m.VCPUCount > 1 && m.VCPUCount%2 == 1 {
		return fmt.Errorf("The number of vCPUs must be greater than 0, less than %d and must be 1 or an even number if SMT is enabled.", maxVCPUs)
	}
	if m.MemSizeMiB < 1 || m.HugePages != "None" && m.MemSizeMiB%2 == 1 {
		return errors.New("The memory size (MiB) is either 0, or not a multiple of the configured page size.")
	}
	return nil
}

// withDefaults fills in what a whole configuration may leave out.
func withDefaults(m fc.MachineConfig) fc.MachineConfig {
	if m.HugePages == "" {
		m.HugePages = "None"
	}
	if m.CPUTemplate == "None" {
		m.CPUTemplate = ""
	}
	return m
}

// merge is m with what u changes.
func merge(m fc.MachineConfig, u fc.MachineUpdate) fc.MachineConfig {
	set(&m.VCPUCount, u.VCPUCount)
	set(&m.MemSizeMiB, u.MemSizeMiB)
	set(&m.SMT, u.SMT)
	set(&m.CPUTemplate, u.CPUTemplate)
	set(&m.TrackDirtyPages, u.TrackDirtyPages)
	set(&m.HugePages, u.HugePages)
	return withDefaults(m)
}

func set[T any](to, from *T) {
	if from != nil {
		*to = *from
	}
}

// checkBootArgs bounds the command line as Firecracker does: printable ASCII that fits,
// with its closing zero, into 2048 bytes.
func checkBootArgs(args *string) error {
	const maxBytes = 2048
	if args == nil {
		return nil
	}
	for _, c := range []byte(*args) {
		if c < ' ' || c > '~' {
			return errors.New("The kernel command line is invalid: String contains a non-printable ASCII character.")
		}
	}
	if len(*args) >= maxBytes {
		return errors.New("The kernel command line is invalid: Inserting string would make command line too long.")
	}
	return nil
}

// configureDrive keeps the root device in front: it is the guest's first disk.
func configureDrive(vm fc.VMConfig, d fc.Drive) (fc.VMConfig, error) {
	at := slices.IndexFunc(vm.Drives, func(other fc.Drive) bool { return other.ID == d.ID })
	if d.IsRoot && len(vm.Drives) > 0 && vm.Drives[0].IsRoot && at != 0 {
		return vm, errors.New("A root block device already exists!")
	}
	if (d.Path == "") == (d.Socket == "") {
		return vm, errors.New("Unable to create the virtio block device: Invalid block config.")
	}
	drives := slices.Clone(vm.Drives)
	switch {
	case at >= 0 && d.IsRoot:
		drives = slices.Insert(slices.Delete(drives, at, at+1), 0, d)
	case at >= 0:
		drives[at] = d
	case d.IsRoot:
		drives = slices.Insert(drives, 0, d)
	default:
		drives = append(drives, d)
	}
	vm.Drives = drives
	return vm, nil
}

func configureNetwork(vm fc.VMConfig, n fc.NetworkInterface) (fc.VMConfig, error) {
	interfaces := slices.DeleteFunc(slices.Clone(vm.Network), func(other fc.NetworkInterface) bool { return other.ID == n.ID })
	for _, other := range interfaces {
		if n.GuestMAC != "" && n.GuestMAC == other.GuestMAC {
			return vm, fmt.Errorf("The MAC address is already in use: %s", n.GuestMAC)
		}
		if n.HostDevName == other.HostDevName {
			return vm, fmt.Errorf("Cannot open/create the tap device: %s is in use", n.HostDevName)
		}
	}
	vm.Network = append(interfaces, n)
	return vm, nil
}

// update is vm after a change of the running machine. It touches nothing that vm holds.
func update(vm fc.VMConfig, r fc.Request) (fc.VMConfig, error) {
	switch r := r.(type) {
	case fc.DriveUpdate:
		at := slices.IndexFunc(vm.Drives, func(d fc.Drive) bool { return d.ID == r.ID })
		if at < 0 {
			return vm, errors.New(noDevice)
		}
		vm.Drives = slices.Clone(vm.Drives)
		if r.Path != "" {
			vm.Drives[at].Path = r.Path
		}
		vm.Drives[at].RateLimiter = MergeLimit(vm.Drives[at].RateLimiter, r.RateLimiter)
	case fc.NetworkUpdate:
		at := slices.IndexFunc(vm.Network, func(n fc.NetworkInterface) bool { return n.ID == r.ID })
		if at < 0 {
			return vm, errors.New(noDevice)
		}
		vm.Network = slices.Clone(vm.Network)
		vm.Network[at].RxRateLimiter = MergeLimit(vm.Network[at].RxRateLimiter, r.RxRateLimiter)
		vm.Network[at].TxRateLimiter = MergeLimit(vm.Network[at].TxRateLimiter, r.TxRateLimiter)
	case fc.BalloonUpdate:
		if vm.Balloon == nil {
			return vm, errors.New(noDevice)
		}
		if r.AmountMiB > vm.MachineConfig.MemSizeMiB {
			return vm, fmt.Errorf("Balloon: Requested memory should be less than %dMiB", vm.MachineConfig.MemSizeMiB)
		}
		changed := *vm.Balloon
		changed.AmountMiB = r.AmountMiB
		vm.Balloon = &changed
	case fc.BalloonStatsUpdate:
		if vm.Balloon == nil {
			return vm, errors.New(noDevice)
		}
		if (vm.Balloon.StatsIntervalSeconds == 0) != (r.IntervalSeconds == 0) {
			return vm, errors.New("Balloon: Statistics cannot be enabled/disabled after activation.")
		}
		changed := *vm.Balloon
		changed.StatsIntervalSeconds = r.IntervalSeconds
		vm.Balloon = &changed
	}
	return vm, nil
}

// MergeLimit is old with the buckets that change names, as Firecracker updates a
// limiter. Either may be nil.
func MergeLimit(old, change *fc.RateLimiter) *fc.RateLimiter {
	if change == nil {
		return old
	}
	var l fc.RateLimiter
	if old != nil {
		l = *old
	}
	if change.Bandwidth != nil {
		l.Bandwidth = change.Bandwidth
	}
	if change.Ops != nil {
		l.Ops = change.Ops
	}
	return &l
}
