package fc

import "encoding/json"

// InstanceState is what a machine is at.
type InstanceState string

const (
	// StateNotStarted is a VMM that takes configuration.
	StateNotStarted InstanceState = "Not started"
	// StateRunning is a booted guest.
	StateRunning InstanceState = "Running"
	// StatePaused is a booted guest whose vCPUs stand still.
	StatePaused InstanceState = "Paused"
)

// InstanceInfo is the answer to GET /.
type InstanceInfo struct {
	AppName    string        `json:"app_name"`
	ID         string        `json:"id"`
	State      InstanceState `json:"state"`
	VMMVersion string        `json:"vmm_version"`
}

// Version is the answer to GET /version.
type Version struct {
	Firecracker string `json:"firecracker_version"`
}

// VMConfig is everything that was configured: the answer to GET /vm/config, and the file
// that --config-file takes.
type VMConfig struct {
	Balloon       *Balloon           `json:"balloon"`
	Drives        []Drive            `json:"drives" fc:"required"`
	BootSource    BootSource         `json:"boot-source" fc:"required"`
	Logger        *Logger            `json:"logger"`
	MachineConfig *MachineConfig     `json:"machine-config"`
	Metrics       *Metrics           `json:"metrics"`
	Network       []NetworkInterface `json:"network-interfaces"`
	Vsock         *Vsock             `json:"vsock"`
	Entropy       *Entropy           `json:"entropy"`
	// What follows is known to Firecracker and not used by banger; it is kept as it came.
	CPUConfig     json.RawMessage `json:"cpu-config"`
	MMDS          json.RawMessage `json:"mmds-config"`
	Pmem          json.RawMessage `json:"pmem"`
	MemoryHotplug json.RawMessage `json:"memory-hotplug"`
}

// BalloonStats is what the guest last said of its memory. Sizes that end in no unit are
// bytes; a value that the guest did not tell is zero.
type BalloonStats struct {
	TargetPages        uint64 `json:"target_pages"`
	ActualPages        uint64 `json:"actual_pages"`
	TargetMiB          uint64 `json:"target_mib"`
	ActualMiB          uint64 `json:"actual_mib"`
	SwapIn             uint64 `json:"swap_in,omitempty"`
	SwapOut            uint64 `json:"swap_out,omitempty"`
	MajorFaults        uint64 `json:"major_faults,omitempty"`
	MinorFaults        uint64 `json:"minor_faults,omitempty"`
	FreeMemory         uint64 `json:"free_memory,omitempty"`
	TotalMemory        uint64 `json:"total_memory,omitempty"`
	AvailableMemory    uint64 `json:"available_memory,omitempty"`
	DiskCaches         uint64 `json:"disk_caches,omitempty"`
	HugetlbAllocations uint64 `json:"hugetlb_allocations,omitempty"`
	HugetlbFailures    uint64 `json:"hugetlb_failures,omitempty"`
}
