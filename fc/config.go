package fc

// A field tagged `fc:"required"` must be in the body; every other may be left out.
// fc/server obeys the tag.

// MachineConfig is the size and kind of the virtual machine; before boot only.
type MachineConfig struct {
	// VCPUCount is 1 to 32, and 1 or even with SMT.
	VCPUCount int `json:"vcpu_count" fc:"required"`
	// MemSizeMiB is guest memory in mebibytes.
	MemSizeMiB int `json:"mem_size_mib" fc:"required"`
	// SMT shows the vCPUs as threads of shared cores.
	SMT bool `json:"smt"`
	// CPUTemplate is deprecated by Firecracker.
	CPUTemplate string `json:"cpu_template,omitempty"`
	// TrackDirtyPages prepares for diff snapshots.
	TrackDirtyPages bool `json:"track_dirty_pages"`
	// HugePages is None (also when empty), Transparent or 2M.
	HugePages string `json:"huge_pages,omitempty"`
}

// Target implements Request.
func (MachineConfig) Target() (string, string) { return put, "/machine-config" }

// MachineUpdate changes parts of the MachineConfig; before boot only. Nil means unchanged.
type MachineUpdate struct {
	VCPUCount       *int    `json:"vcpu_count,omitempty"`
	MemSizeMiB      *int    `json:"mem_size_mib,omitempty"`
	SMT             *bool   `json:"smt,omitempty"`
	CPUTemplate     *string `json:"cpu_template,omitempty"`
	TrackDirtyPages *bool   `json:"track_dirty_pages,omitempty"`
	HugePages       *string `json:"huge_pages,omitempty"`
}

// Target implements Request.
func (MachineUpdate) Target() (string, string) { return patch, "/machine-config" }

// BootSource is what the machine boots; before boot only. Paths are the VMM's own.
type BootSource struct {
	// KernelPath is an uncompressed ELF, or a bzImage where the VMM takes one.
	KernelPath string `json:"kernel_image_path" fc:"required"`
	// InitrdPath may be empty.
	InitrdPath string `json:"initrd_path,omitempty"`
	// BootArgs is the kernel's command line. Nil means the VMM's default.
	BootArgs *string `json:"boot_args,omitempty"`
}

// Target implements Request.
func (BootSource) Target() (string, string) { return put, "/boot-source" }

// CacheType says what a flush by the guest is worth.
type CacheType string

const (
	// CacheUnsafe ignores flushes: an fsync in the guest promises nothing at a power
	// cut of the host. It is Firecracker's default.
	CacheUnsafe CacheType = "Unsafe"
	// CacheWriteback lets a flush reach the host's disk.
	CacheWriteback CacheType = "Writeback"
)

// Drive is a virtio block device; before boot only.
type Drive struct {
	ID string `json:"drive_id" fc:"required"`
	// PartUUID names the root partition; it counts for the root device only.
	PartUUID string `json:"partuuid,omitempty"`
	// IsRoot makes the drive the first one, and root= of the command line.
	IsRoot bool `json:"is_root_device" fc:"required"`
	// CacheType is CacheUnsafe when empty.
	CacheType CacheType `json:"cache_type,omitempty"`
	ReadOnly  bool      `json:"is_read_only,omitempty"`
	Path      string    `json:"path_on_host,omitempty"`
	// RateLimiter is nil for no limit.
	RateLimiter *RateLimiter `json:"rate_limiter,omitempty"`
	// IOEngine is Sync (also when empty) or Async.
	IOEngine string `json:"io_engine,omitempty"`
	// Socket is that of a vhost-user-block backend, in place of Path.
	Socket string `json:"socket,omitempty"`
}

// Target implements Request.
func (d Drive) Target() (string, string) { return put, "/drives/" + d.ID }

// NetworkInterface is a virtio network device on a tap of the host; before boot only.
type NetworkInterface struct {
	ID string `json:"iface_id" fc:"required"`
	// HostDevName is the tap's name in the VMM's network namespace.
	HostDevName string `json:"host_dev_name" fc:"required"`
	// GuestMAC is chosen by the VMM when empty.
	GuestMAC string `json:"guest_mac,omitempty"`
	// MTU is told to the guest; zero means nothing is told.
	MTU           int          `json:"mtu,omitempty"`
	RxRateLimiter *RateLimiter `json:"rx_rate_limiter,omitempty"`
	TxRateLimiter *RateLimiter `json:"tx_rate_limiter,omitempty"`
}

// Target implements Request.
func (n NetworkInterface) Target() (string, string) { return put, "/network-interfaces/" + n.ID }

// Vsock is the guest's socket device; before boot only. The VMM listens on UDSPath for
// connections to the guest, and dials UDSPath_<port> for those that the guest makes.
type Vsock struct {
	// ID is deprecated by Firecracker.
	ID       string `json:"vsock_id,omitempty"`
	GuestCID uint32 `json:"guest_cid" fc:"required"`
	UDSPath  string `json:"uds_path" fc:"required"`
}

// Target implements Request.
func (Vsock) Target() (string, string) { return put, "/vsock" }

// Entropy is a virtio random number device; before boot only.
type Entropy struct {
	RateLimiter *RateLimiter `json:"rate_limiter,omitempty"`
}

// Target implements Request.
func (Entropy) Target() (string, string) { return put, "/entropy" }

// Balloon is a device that takes memory back from the guest; before boot only.
type Balloon struct {
	AmountMiB    int  `json:"amount_mib" fc:"required"`
	DeflateOnOOM bool `json:"deflate_on_oom" fc:"required"`
	// StatsIntervalSeconds is zero for no statistics, which then cannot be had later.
	StatsIntervalSeconds int  `json:"stats_polling_interval_s"`
	FreePageHinting      bool `json:"free_page_hinting"`
	FreePageReporting    bool `json:"free_page_reporting"`
}

// Target implements Request.
func (Balloon) Target() (string, string) { return put, "/balloon" }

// Serial is where the guest's console goes; standard output when not given. Before boot only.
type Serial struct {
	OutPath     string       `json:"serial_out_path,omitempty"`
	RateLimiter *TokenBucket `json:"rate_limiter,omitempty"`
}

// Target implements Request.
func (Serial) Target() (string, string) { return put, "/serial" }

// Logger is where and how much the VMM logs; before boot only.
type Logger struct {
	Path string `json:"log_path,omitempty"`
	// Level is Error, Warning, Info, Debug, Trace or Off.
	Level         string `json:"level,omitempty"`
	ShowLevel     *bool  `json:"show_level,omitempty"`
	ShowLogOrigin *bool  `json:"show_log_origin,omitempty"`
	Module        string `json:"module,omitempty"`
}

// Target implements Request.
func (Logger) Target() (string, string) { return put, "/logger" }

// Metrics is the file or named pipe that takes a line of JSON per flush; before boot only.
type Metrics struct {
	Path string `json:"metrics_path" fc:"required"`
}

// Target implements Request.
func (Metrics) Target() (string, string) { return put, "/metrics" }

// RateLimiter bounds bytes and operations on their own. A nil bucket is no bound.
type RateLimiter struct {
	Bandwidth *TokenBucket `json:"bandwidth,omitempty"`
	Ops       *TokenBucket `json:"ops,omitempty"`
}

// TokenBucket holds Size tokens and is refilled at Size per RefillMillis. A zero Size or
// RefillMillis switches the bound off.
type TokenBucket struct {
	Size uint64 `json:"size" fc:"required"`
	// OneTimeBurst is spent first and never refilled.
	OneTimeBurst uint64 `json:"one_time_burst,omitempty"`
	RefillMillis uint64 `json:"refill_time" fc:"required"`
}
