package fc

// ActionType is what an Action asks for.
type ActionType string

const (
	// InstanceStart boots the machine, once.
	InstanceStart ActionType = "InstanceStart"
	// SendCtrlAltDel presses the keys in the guest. Debian's systemd reboots on it.
	SendCtrlAltDel ActionType = "SendCtrlAltDel"
	// FlushMetrics writes a line of metrics now.
	FlushMetrics ActionType = "FlushMetrics"
)

// Action is a deed without parameters.
type Action struct {
	Type ActionType `json:"action_type" fc:"required"`
}

// Target implements Request.
func (Action) Target() (string, string) { return put, "/actions" }

// VMState is what VM can ask a running machine to be.
type VMState string

const (
	// Paused stops the vCPUs.
	Paused VMState = "Paused"
	// Resumed lets them run again.
	Resumed VMState = "Resumed"
)

// VM pauses and resumes; after boot only. Asking twice for the same is no error.
type VM struct {
	State VMState `json:"state" fc:"required"`
}

// Target implements Request.
func (VM) Target() (string, string) { return patch, "/vm" }

// DriveUpdate changes a drive; after boot only. A Path, even the same one, makes the VMM
// look at the file's size anew.
type DriveUpdate struct {
	ID          string       `json:"drive_id" fc:"required"`
	Path        string       `json:"path_on_host,omitempty"`
	RateLimiter *RateLimiter `json:"rate_limiter,omitempty"`
}

// Target implements Request.
func (d DriveUpdate) Target() (string, string) { return patch, "/drives/" + d.ID }

// NetworkUpdate changes an interface's limits; after boot only.
type NetworkUpdate struct {
	ID            string       `json:"iface_id" fc:"required"`
	RxRateLimiter *RateLimiter `json:"rx_rate_limiter,omitempty"`
	TxRateLimiter *RateLimiter `json:"tx_rate_limiter,omitempty"`
}

// Target implements Request.
func (n NetworkUpdate) Target() (string, string) { return patch, "/network-interfaces/" + n.ID }

// BalloonUpdate changes how much the balloon takes; after boot only.
type BalloonUpdate struct {
	AmountMiB int `json:"amount_mib" fc:"required"`
}

// Target implements Request.
func (BalloonUpdate) Target() (string, string) { return patch, "/balloon" }

// BalloonStatsUpdate changes how often the guest is asked; after boot only, and only where
// the balloon had statistics from the start.
type BalloonStatsUpdate struct {
	IntervalSeconds int `json:"stats_polling_interval_s" fc:"required"`
}

// Target implements Request.
func (BalloonStatsUpdate) Target() (string, string) { return patch, "/balloon/statistics" }

// SnapshotCreate writes a paused machine's state and memory to files.
type SnapshotCreate struct {
	// Type is Full (also when empty) or Diff.
	Type         string `json:"snapshot_type,omitempty"`
	SnapshotPath string `json:"snapshot_path" fc:"required"`
	MemFilePath  string `json:"mem_file_path" fc:"required"`
}

// Target implements Request.
func (SnapshotCreate) Target() (string, string) { return put, "/snapshot/create" }

// SnapshotLoad makes a fresh VMM go on from a snapshot; it must be the first request but
// for Logger and Metrics.
type SnapshotLoad struct {
	SnapshotPath string `json:"snapshot_path" fc:"required"`
	// MemFilePath is deprecated by Firecracker; exactly one of it and MemBackend is given.
	MemFilePath string      `json:"mem_file_path,omitempty"`
	MemBackend  *MemBackend `json:"mem_backend,omitempty"`
	// EnableDiffSnapshots is deprecated by Firecracker for TrackDirtyPages.
	EnableDiffSnapshots bool              `json:"enable_diff_snapshots,omitempty"`
	TrackDirtyPages     bool              `json:"track_dirty_pages,omitempty"`
	ResumeVM            bool              `json:"resume_vm,omitempty"`
	NetworkOverrides    []NetworkOverride `json:"network_overrides,omitempty"`
	VsockOverride       *VsockOverride    `json:"vsock_override,omitempty"`
	ClockRealtime       bool              `json:"clock_realtime,omitempty"`
	HugePages           string            `json:"huge_pages,omitempty"`
}

// Target implements Request.
func (SnapshotLoad) Target() (string, string) { return put, "/snapshot/load" }

// MemBackend is where a restored guest's memory comes from.
type MemBackend struct {
	// Type is File or Uffd.
	Type string `json:"backend_type" fc:"required"`
	Path string `json:"backend_path" fc:"required"`
}

// NetworkOverride gives a restored interface another tap.
type NetworkOverride struct {
	ID          string `json:"iface_id" fc:"required"`
	HostDevName string `json:"host_dev_name" fc:"required"`
}

// VsockOverride gives a restored vsock another socket.
type VsockOverride struct {
	UDSPath string `json:"uds_path" fc:"required"`
}
