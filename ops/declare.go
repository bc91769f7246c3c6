package ops

import (
	"encoding/hex"
	"fmt"
)

// Hello tells who answers. It changes nothing.
var Hello = &Op[None, HelloReply]{Decl{
	Name:   "Hello",
	Attack: "say it in a version or with fields that nobody knows, or never end",
	Shown:  []string{"ops TestHostileMessagesAreRefused", "ops TestSilentConnectionsAreDropped"},
}}

// HelloReply is the helper's view of itself.
type HelloReply struct {
	Version string `json:"version"` // of the binary
	PID     int    `json:"pid"`
	Prefix  string `json:"prefix"`  // CIDR of the guests' network
	Gateway string `json:"gateway"` // the guests' gateway and resolver
	Host    string `json:"host"`    // the host's address on its way to guests

	// KVM is what a VM finds: KVMUsable, or a word for why it is of no use.
	KVM string `json:"kvm"`
	// Firecracker tells whether the binary was found.
	Firecracker bool `json:"firecracker"`
	// Snapshots is what VMStart makes of a snapshot: SnapshotsWork, or a word for
	// what is missing.
	Snapshots string `json:"snapshots"`
}

// SnapshotsWork is HelloReply.Snapshots where the kernel has what they take.
const SnapshotsWork = "work"

// KVMUsable is HelloReply.KVM where VMs can run at the machine's speed.
const KVMUsable = "usable"

// Inventory returns a memfd with everything on the host that the helper knows
// as banger's, as JSON.
var Inventory = &Op[None, None]{Decl{
	Name: "Inventory", FilesOut: 1,
	Needs:  "CAP_NET_ADMIN",
	Attack: "learn of objects that are not banger's: the helper sees its own namespace only",
	Shown:  []string{"netns TestInventorySeesPlantedLeftovers"},
}}

// Reconcile returns a memfd with a JSON array of [Reservation]: what the helper
// holds. The daemon releases what it does not know.
var Reconcile = &Op[None, None]{Decl{
	Name: "Reconcile", FilesOut: 1,
	Attack: "learn handles of VMs that are another owner's: there is one owner, and others are turned away",
	Shown:  []string{"ops TestForeignerIsTurnedAway"},
}}

// Reservation is what the helper holds for one VM.
type Reservation struct {
	Handle  string `json:"handle"`
	ID      string `json:"id"`
	Slot    int    `json:"slot"`
	Address string `json:"address"`
	MAC     string `json:"mac"`
	Running bool   `json:"running"`
}

// VMReserve takes a slot, and with it an address, a MAC and a uid, for a VM
// that does not run yet. Asked again with the same request id it answers the
// same.
var VMReserve = &Op[None, VMReserveReply]{Decl{
	Name:   "VMReserve",
	Attack: "take all slots, so that nothing works any more: nothing but his own VMs",
	Shown:  []string{"personas/helper TestReserveIsLimited", "personas/helper TestReservationsOutliveTheHelper"},
}}

// VMReserveReply is a reservation as the daemon records it.
type VMReserveReply struct {
	Handle  string `json:"handle"` // 32 hex digits, unguessable; names the VM from now on
	ID      string `json:"id"`     // 8 hex digits; marks every kernel object of the VM
	Slot    int    `json:"slot"`
	Address string `json:"address"` // IPv4
	Prefix  int    `json:"prefix"`  // bits of the network's prefix
	Gateway string `json:"gateway"`
	MAC     string `json:"mac"`
}

// VMStart makes the tap with its filter and the jail, and starts the VMM. The
// request carries one to four disks, in order; each is read-only in the jail
// exactly where its descriptor is. Where the disk is a snapshot, the first two make up
// one disk, which is writable: an image, read-only, and the store of what differs
// from it. The reply carries, in order: the connected
// API socket, a pidfd, the listener for the guest's hello, an O_PATH descriptor
// of the directory with the VMM's sockets, and the serial log for reading.
var VMStart = &Op[VMStartArgs, VMStartReply]{Decl{
	Name: "VMStart", MinFiles: 1, MaxFiles: MaxFilesIn, FilesOut: 5,
	Needs:  "CAP_NET_ADMIN, CAP_CHOWN, CAP_FOWNER, CAP_KILL",
	Attack: "hand over files that are not his, devices, fifos, links, files that change while they are looked at, or that nobody answers for; start a VM twice, or on a disk that another writes; have the device mapper write an image, or believe a store that is none",
	Shown:  []string{"personas/helper TestDescriptorsThatAreRefused", "personas/helper TestCheckedDescriptorStaysTheFile", "personas/helper TestClaims", "personas/helper TestSnapshotsThatAreRefused", "store/disk/dm TestRefusedLeavesNothing", "store/disk/dm TestFilesChangeWhileOpening", "ops TestDescriptorThatIsNotPolled", "fc/jail TestJail", "netns TestPolicies"},
}}

// The VMMs that VMStart knows.
const (
	Firecracker = "firecracker"
	QEMU        = "qemu"
)

// The policies of VMStart.
const (
	NetNone     = "none"
	NetInternet = "internet"
	NetFull     = "full"
)

// VMStartArgs names what is to be started.
type VMStartArgs struct {
	Handle string `json:"handle"`
	Kernel string `json:"kernel"` // sha256 in hex, put before
	Initrd string `json:"initrd"` // sha256 in hex, put before
	VMM    string `json:"vmm"`
	Net    string `json:"net"`
	MemMiB int    `json:"mem_mib"` // of the guest; bounds the VMM's own, too
	CPUs   int    `json:"cpus"`    // of the guest; bound the VMM's own, too

	// Snapshot tells that the first two descriptors are a snapshot.
	Snapshot bool `json:"snapshot,omitempty"`
}

// Bounds of what a VM may have.
const (
	MaxMemMiB = 1 << 20 // a tebibyte
	MaxCPUs   = 256
)

// Validate reports what is malformed.
func (a VMStartArgs) Validate() error {
	if err := checkHandle(a.Handle); err != nil {
		return err
	}
	if err := checkDigest("kernel", a.Kernel); err != nil {
		return err
	}
	if err := checkDigest("initrd", a.Initrd); err != nil {
		return err
	}
	if a.VMM != Firecracker && a.VMM != QEMU {
		return fmt.Errorf("vmm %q: want %s or %s", a.VMM, Firecracker, QEMU)
	}
	if a.MemMiB < 1 || a.MemMiB > MaxMemMiB {
		return fmt.Errorf("mem_mib %d: want 1 to %d", a.MemMiB, MaxMemMiB)
	}
	if a.CPUs < 1 || a.CPUs > MaxCPUs {
		return fmt.Errorf("cpus %d: want 1 to %d", a.CPUs, MaxCPUs)
	}
	return checkNet(a.Net)
}

// VMStartReply tells of the running VMM. All paths are inside its jail.
type VMStartReply struct {
	PID int    `json:"pid"`
	Tap string `json:"tap"` // empty where the VM has no network
	MTU int    `json:"mtu"` // of the tap, in bytes; zero where there is none
}

// VMSeal takes the directory with the VMM's sockets from the VMM, which has made them
// when it is configured, and before anything of the image runs in the guest: a VMM that
// the guest has taken over can make nothing there, in what all VMs share. A VM that is
// sealed already stays so.
var VMSeal = &Op[HandleArgs, None]{Decl{
	Name:   "VMSeal",
	Needs:  "CAP_CHOWN, CAP_FOWNER",
	Attack: "leave it out, so that his own guests can keep each other from starting",
	Shown:  []string{"fc/jail TestSeal", "personas/helper TestSeal"},
}}

// VMReconnect gives the descriptors of VMStart for a VM that runs, to a daemon
// that lost them.
var VMReconnect = &Op[HandleArgs, VMStartReply]{Decl{
	Name: "VMReconnect", FilesOut: 5,
	Attack: "get at a VM by guessing: a handle has 128 random bits",
	Shown:  []string{"personas/helper TestReserve"},
}}

// VMStop kills the VMM, if it still runs, and removes tap and jail. The
// reservation stays. It returns once the process is gone.
var VMStop = &Op[HandleArgs, None]{Decl{
	Name:   "VMStop",
	Needs:  "CAP_NET_ADMIN, CAP_CHOWN, CAP_FOWNER, CAP_KILL",
	Attack: "have a process killed that is no VMM: there is no pid to name, and the VMM is known by pidfd",
	Shown:  []string{"fc/jail TestAdoptProves", "personas/helper TestStopWhileStarting"},
}}

// VMRelease does what VMStop does and gives up the reservation. A handle that
// is gone is success.
var VMRelease = &Op[HandleArgs, None]{Decl{
	Name:   "VMRelease",
	Needs:  "CAP_NET_ADMIN, CAP_CHOWN, CAP_FOWNER, CAP_KILL",
	Attack: "have files removed that a VMM has linked into its jail, or more than there are",
	Shown:  []string{"fc/jail TestReleasePlanted", "fc/jail TestReleaseCrossesNoMount", "personas/helper TestRacingReleases"},
}}

// HandleArgs names a VM.
type HandleArgs struct {
	Handle string `json:"handle"`
}

// Validate reports a malformed handle.
func (a HandleArgs) Validate() error { return checkHandle(a.Handle) }

// KernelPut keeps a kernel or an initrd, root-owned, by digest. Without a
// descriptor it only tells whether the digest is there. With one it copies,
// compares the digest, and publishes.
var KernelPut = &Op[KernelPutArgs, KernelPutReply]{Decl{
	Name: "KernelPut", MaxFiles: 1,
	Attack: "keep a content under another one's digest, fill the disk, change it afterwards",
	Shown:  []string{"personas/helper TestKernelThatIsRefusedLeavesNothing", "personas/helper TestKernelOnFullDisk", "personas/helper TestKernelThatIsTooLarge", "ops TestDescriptorThatDoesNotClose"},
}}

// KernelPutArgs names the content.
type KernelPutArgs struct {
	Digest string `json:"digest"` // sha256 in hex
}

// Validate reports a malformed digest.
func (a KernelPutArgs) Validate() error { return checkDigest("digest", a.Digest) }

// KernelPutReply tells whether the helper has the content now.
type KernelPutReply struct {
	Have bool `json:"have"`
}

// Resolver hands out the bound DNS sockets on the guests' gateway: UDP, then
// listening TCP.
var Resolver = &Op[None, None]{Decl{
	Name: "Resolver", FilesOut: 2,
	Needs:  "CAP_NET_BIND_SERVICE",
	Attack: "answer for names that are not his: to his own guests he may say what he likes",
	Shown:  []string{"personas/daemon/names TestHostAsks"},
}}

func checkHandle(h string) error {
	if len(h) != 32 || !isHex(h) {
		return fmt.Errorf("handle: want 32 lower-case hex digits")
	}
	return nil
}

func checkDigest(what, d string) error {
	if len(d) != 64 || !isHex(d) {
		return fmt.Errorf("%s: want 64 lower-case hex digits", what)
	}
	return nil
}

func isHex(s string) bool {
	b, err := hex.DecodeString(s)
	return err == nil && hex.EncodeToString(b) == s
}

func checkNet(n string) error {
	switch n {
	case NetNone, NetInternet, NetFull:
		return nil
	}
	return fmt.Errorf("net %q: want %s, %s or %s", n, NetNone, NetInternet, NetFull)
}
