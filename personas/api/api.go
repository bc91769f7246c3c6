// Package api holds the words between the CLI and bangerd: what is asked, what
// is answered, and the client.
//
// The protocol is HTTP/1.1 with JSON bodies over a unix socket, so that
// `curl --unix-socket` is a client too. Calls that take time answer with a
// stream of JSON lines (see [Event]). Calls that carry descriptors upgrade the
// connection first (see [Upgrade]).
package api

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode"
	"unicode/utf8"
)

// SocketPath is where bangerd listens on this host.
const SocketPath = "/run/banger/bangerd.sock"

// RequestIDHeader carries the id that joins a user's error, the log lines of
// both daemons and the helper's audit record.
const RequestIDHeader = "Banger-Request-Id"

// Upgrade is the protocol name of an upgraded connection. After the 101 reply
// one message of one byte passes the descriptors, from the client for an
// import and from the daemon for an agent connection; what follows is a stream
// of [Event] lines or nothing.
const Upgrade = "banger-fd/1"

// State is where a VM is in its life.
//
//	           create            start             InstanceStart, hello
//	(nothing) -------> creating -------> starting ---------> running
//	                      |                 |  ^                |
//	                      v                 v  | start          | stop, guest powers off
//	                   (nothing)         stopped <--- stopping <+
//	                                        |
//	                                        +--> deleting --> (nothing)
type State string

// The states of a VM.
const (
	Creating State = "creating"
	Starting State = "starting"
	Running  State = "running"
	Stopping State = "stopping"
	Stopped  State = "stopped"
	Deleting State = "deleting"

	// Damaged is a VM whose record cannot be read. It can only be deleted, by force.
	Damaged State = "damaged"
)

// Net is what a VM may reach.
type Net string

// The network modes. The zero value means Internet.
const (
	NetNone     Net = "none"     // no network device traffic at all
	NetInternet Net = "internet" // public addresses only
	NetFull     Net = "full"     // private ranges too; never other VMs
)

// Init says what runs as the guest's PID 1 after the root disk is mounted.
type Init string

// The init modes. The zero value means InitAuto.
const (
	InitAuto   Init = "auto"   // the image's init where it has one
	InitBanger Init = "banger" // banger's own small init
	InitImage  Init = "image"  // the image's init; an error where there is none
)

// VMM is the program that runs a VM.
type VMM string

// The VMMs. The zero value means VMMAuto.
const (
	VMMAuto        VMM = "auto"        // firecracker where KVM is usable, else qemu
	VMMFirecracker VMM = "firecracker" // needs a usable /dev/kvm
	VMMQEMU        VMM = "qemu"        // banger-vmm over QEMU, emulated where KVM is missing
)

// Backend is how a VM's root disk is made from its image.
type Backend string

// The disk backends. The zero value means BackendAuto.
const (
	BackendAuto     Backend = "auto"
	BackendReflink  Backend = "reflink"
	BackendSnapshot Backend = "snapshot"
	BackendOverlay  Backend = "overlay"
	BackendCopy     Backend = "copy"
)

// Bounds of a VM.
const (
	MaxEnvBytes  = 128 << 10 // all entries together, as a Linux guest's kernel takes
	MaxCPUs      = 32
	MinMemMiB    = 96      // below it, a distribution's kernel has no room for its initrd
	MaxMemMiB    = 1 << 20 // 1 TiB
	MinDiskBytes = 64 << 20
	MaxDiskBytes = 16 << 40
)

// VMSpec is what a user asks for. Zero values mean the defaults.
type VMSpec struct {
	Name   string `json:"name,omitempty"`   // chosen by the daemon if empty
	Image  string `json:"image,omitempty"`  // name or digest; the default image if empty
	Kernel string `json:"kernel,omitempty"` // name or digest; the default kernel if empty

	CPUs      int   `json:"cpus,omitempty"`       // 1 to MaxCPUs
	MemMiB    int   `json:"mem_mib,omitempty"`    // mebibytes, MinMemMiB to MaxMemMiB
	DiskBytes int64 `json:"disk_bytes,omitempty"` // size of the root disk; zero means as large as the image asks

	Net     Net     `json:"net,omitempty"`
	Init    Init    `json:"init,omitempty"`
	VMM     VMM     `json:"vmm,omitempty"`
	Backend Backend `json:"backend,omitempty"`

	// Env, User and WorkDir are the defaults of every command that is run in
	// the VM. Env entries are K=V.
	Env     []string `json:"env,omitempty"`
	User    string   `json:"user,omitempty"`
	WorkDir string   `json:"work_dir,omitempty"`

	// AuthorizedKeys are lines for the guest's authorized_keys, where it has an sshd.
	AuthorizedKeys []string `json:"authorized_keys,omitempty"`

	// AutoRemove deletes the VM when its holder goes away (see Client.Hold) or
	// when it stops. While it is held, a stop alone does not delete it: the
	// holder looks at what is left first.
	AutoRemove bool `json:"auto_remove,omitempty"`

	// Unheld says that nobody will hold the VM: AutoRemove waits for its stop
	// alone, after its first start.
	Unheld bool `json:"unheld,omitempty"`

	// Start starts the VM once it is created.
	Start bool `json:"start,omitempty"`
}

var namePattern = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,38}$`) })

// CheckName reports why name cannot name a VM, an image or a kernel.
func CheckName(name string) error {
	if !namePattern().MatchString(name) || strings.HasSuffix(name, "-") {
		return fmt.Errorf("name %q: want 1 to 39 of a-z, 0-9 and '-', not first or last a '-'", name)
	}
	return nil
}

// CheckEnv reports why kv cannot be an environment entry.
func CheckEnv(kv string) error {
	k, _, ok := strings.Cut(kv, "=")
	if !ok || k == "" || strings.ContainsRune(kv, 0) {
		return fmt.Errorf("environment %q: want NAME=VALUE", kv)
	}
	return nil
}

// Validate reports the first thing in s that no VM can have.
func (s *VMSpec) Validate() error {
	if s.Name != "" {
		if err := CheckName(s.Name); err != nil {
			return err
		}
	}
	if s.CPUs < 0 || s.CPUs > MaxCPUs {
		return fmt.Errorf("cpus %d: want 1 to %d", s.CPUs, MaxCPUs)
	}
	if s.MemMiB != 0 && (s.MemMiB < MinMemMiB || s.MemMiB > MaxMemMiB) {
		return fmt.Errorf("memory %d MiB: want %d MiB to %d MiB", s.MemMiB, MinMemMiB, MaxMemMiB)
	}
	if s.DiskBytes != 0 && (s.DiskBytes < MinDiskBytes || s.DiskBytes > MaxDiskBytes) {
		return fmt.Errorf("disk %d bytes: want 64 MiB to 16 TiB", s.DiskBytes)
	}
	if err := oneOf("net", s.Net, NetNone, NetInternet, NetFull); err != nil {
		return err
	}
	if err := oneOf("init", s.Init, InitAuto, InitBanger, InitImage); err != nil {
		return err
	}
	if err := oneOf("vmm", s.VMM, VMMAuto, VMMFirecracker, VMMQEMU); err != nil {
		return err
	}
	if err := oneOf("backend", s.Backend, BackendAuto, BackendReflink, BackendSnapshot, BackendOverlay, BackendCopy); err != nil {
		return err
	}
	env := 0
	for _, kv := range s.Env {
		if err := CheckEnv(kv); err != nil {
			return err
		}
		if env += len(kv) + 1; env > MaxEnvBytes {
			return fmt.Errorf("environment: want at most %d bytes", MaxEnvBytes)
		}
	}
	if err := checkUser(s.User); err != nil {
		return err
	}
	if s.WorkDir != "" && (!strings.HasPrefix(s.WorkDir, "/") || strings.ContainsRune(s.WorkDir, 0) || len(s.WorkDir) > maxPath) {
		return fmt.Errorf("workdir %q: want an absolute path in the guest", clip(s.WorkDir))
	}
	if len(s.AuthorizedKeys) > MaxKeys {
		return fmt.Errorf("authorized keys: want at most %d", MaxKeys)
	}
	for _, k := range s.AuthorizedKeys {
		if k == "" || len(k) > MaxKeyBytes || strings.ContainsAny(k, "\n\r\x00") {
			return fmt.Errorf("authorized key %q: want one line of at most %d bytes", clip(k), MaxKeyBytes)
		}
	}
	return checkRefs(s.Image, s.Kernel)
}

// Bounds of authorized keys: how many, and bytes of each.
const (
	MaxKeys     = 16
	MaxKeyBytes = 8 << 10
)

// maxID is the largest uid or gid that a command in the guest can have.
const maxID = 1<<31 - 1

// checkUser refuses what cannot be a user of a guest, whom only the guest knows: a
// name or a number, and a group behind a colon. Nothing is the default.
func checkUser(spec string) error {
	parts := strings.Split(spec, ":")
	bad := len(parts) > 2 || len(spec) > 256 || spec != "" && slices.Contains(parts, "")
	for _, part := range parts {
		bad = bad || strings.ContainsFunc(part, func(r rune) bool { return unicode.IsSpace(r) || unicode.IsControl(r) || r == utf8.RuneError })
		if part == "" || strings.Trim(part, "0123456789") != "" {
			continue
		}
		if id, err := strconv.ParseInt(part, 10, 64); err != nil || id > maxID {
			return fmt.Errorf("user %q: want numbers up to %d", clip(spec), maxID)
		}
	}
	if bad {
		return fmt.Errorf("user %q: want a name or a number, optionally with :group", clip(spec))
	}
	return nil
}

// maxPath bounds a path in the guest, in bytes, as Linux does.
const maxPath = 4095

// checkRefs refuses what names neither an image nor a kernel nor a digest.
func checkRefs(refs ...string) error {
	for _, ref := range refs {
		if len(ref) > len("sha256:")+64 {
			return fmt.Errorf("%q: want a name or a digest", clip(ref))
		}
	}
	return nil
}

// clip keeps an error about a long text short.
func clip(s string) string {
	const most = 64
	if len(s) <= most {
		return s
	}
	return s[:most] + "..."
}

func oneOf[T ~string](what string, v T, allowed ...T) error {
	if v == "" {
		return nil
	}
	words := make([]string, len(allowed))
	for i, a := range allowed {
		if v == a {
			return nil
		}
		words[i] = string(a)
	}
	return fmt.Errorf("%s %q: want %s", what, string(v), strings.Join(words, ", "))
}

// VM is what the daemon tells of a VM.
type VM struct {
	ID        string    `json:"id"`
	Name      string    `json:"name"`
	State     State     `json:"state"`
	Reason    string    `json:"reason,omitempty"` // why it is in this state, where that is not obvious
	Spec      VMSpec    `json:"spec"`             // with every default filled in
	Image     string    `json:"image"`            // digest
	Kernel    string    `json:"kernel"`           // digest
	VMM       VMM       `json:"vmm"`              // what it runs under: firecracker or qemu
	Emulated  bool      `json:"emulated"`         // no KVM: correct, and slow
	Backend   Backend   `json:"backend"`
	Disk      string    `json:"disk"` // path of the VM's own disk file
	Address   string    `json:"address,omitempty"`
	MAC       string    `json:"mac,omitempty"`
	HostKey   string    `json:"host_key,omitempty"` // of its sshd, as in known_hosts
	PID       int       `json:"pid,omitempty"`      // of the VMM, zero when not running
	CreatedAt time.Time `json:"created_at"`
	StartedAt time.Time `json:"started_at,omitzero"`
}

// Image is a root file system in the catalogue.
type Image struct {
	Name       string    `json:"name"`
	Digest     string    `json:"digest"`     // sha256:..., of what was imported
	SizeBytes  int64     `json:"size_bytes"` // of the ext4 file system
	Path       string    `json:"path"`       // of the ext4 file
	Source     string    `json:"source"`     // where it came from
	Distro     string    `json:"distro,omitempty"`
	HasInit    bool      `json:"has_init"`
	Env        []string  `json:"env,omitempty"`
	Entrypoint []string  `json:"entrypoint,omitempty"`
	Cmd        []string  `json:"cmd,omitempty"`
	User       string    `json:"user,omitempty"`
	WorkDir    string    `json:"work_dir,omitempty"`
	Default    bool      `json:"default"`
	CreatedAt  time.Time `json:"created_at"`
}

// Kernel is a guest kernel in the catalogue.
type Kernel struct {
	Name      string    `json:"name"`
	Digest    string    `json:"digest"` // sha256:..., of the kernel and its modules
	Release   string    `json:"release"`
	SizeBytes int64     `json:"size_bytes"`
	Path      string    `json:"path"` // of the uncompressed kernel
	Source    string    `json:"source"`
	Modules   []string  `json:"modules,omitempty"` // in load order
	Default   bool      `json:"default"`
	CreatedAt time.Time `json:"created_at"`
}

// MaxRefBytes is the longest reference of an image in an archive.
const MaxRefBytes = 512

// ImportRequest describes the descriptors that an import passes: the source
// first, then a kernel's module directory where Modules is set, then its
// configuration where Config is.
type ImportRequest struct {
	Name    string `json:"name"`
	Source  string `json:"source"`        // as the user named it, for the record only; never opened
	Ref     string `json:"ref,omitempty"` // chooses one of several images in an archive, by name or digest
	Default bool   `json:"default,omitempty"`
	Modules bool   `json:"modules,omitempty"`
	Config  bool   `json:"config,omitempty"`
	Release string `json:"release,omitempty"` // of the module directory
}

// Validate reports what is wrong with r.
func (r *ImportRequest) Validate() error {
	if err := CheckName(r.Name); err != nil {
		return err
	}
	if len(r.Ref) > MaxRefBytes || strings.ContainsFunc(r.Ref, func(c rune) bool { return c <= ' ' || !unicode.IsPrint(c) }) {
		return fmt.Errorf("reference: longer than %d bytes, or with a blank or control character", MaxRefBytes)
	}
	if len(r.Source) > 4096 || strings.ContainsRune(r.Source, 0) {
		return fmt.Errorf("source: longer than 4096 bytes or with a NUL")
	}
	return nil
}

// Status is what the daemon says of itself and of what it stands on.
type Status struct {
	Daemon Version `json:"daemon"`
	// Helper is nil if it does not answer; Error says why then.
	Helper *HelperStatus `json:"helper"`
	Error  string        `json:"helper_error,omitempty"`
	// VMM is what a VM gets that asks for none in particular.
	VMM VMM `json:"vmm,omitempty"`
	// DiskBackend is what a VM's disk is made by, unless another is asked for.
	DiskBackend string `json:"disk_backend"`
	VMs         int    `json:"vms"`
	Running     int    `json:"running"`
}

// HelperStatus is what the helper says.
type HelperStatus struct {
	Version     string `json:"version"`
	PID         int    `json:"pid"`
	Network     string `json:"network"` // CIDR of the guests' network
	Gateway     string `json:"gateway"` // their gateway and resolver
	KVM         string `json:"kvm"`     // usable, or why it is not
	Firecracker bool   `json:"firecracker"`
}

// Version is the daemon's answer to who it is.
type Version struct {
	Version string `json:"version"`
	Commit  string `json:"commit,omitempty"`
	Built   string `json:"built,omitempty"`
	PID     int    `json:"pid"`
	UID     int    `json:"uid"`
	State   string `json:"state_dir"`
}
