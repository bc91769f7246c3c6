// Package doctor looks at a host and says whether VMs can run on it, and what
// to do where they cannot.
//
// It only reads. What it may not read, it says, rather than being content: a
// check that could not look is never ok. What other packages know best, such as
// whether KVM is usable, the caller hands in as a function.
package doctor

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"banger/install/layout"
)

// Status is how a check ended.
type Status string

// The ends of a check. Only Fail says that something will not work.
const (
	OK   Status = "ok"
	Info Status = "info" // worth knowing, or could not be looked at
	Warn Status = "warn" // works, but worse than it could, or only in part
	Fail Status = "fail"
)

// Result is what a check found.
type Result struct {
	Status Status `json:"status"`

	// Detail says what was found, with figures.
	Detail string `json:"detail"`

	// Hint says what to do; it is empty where nothing is to be done.
	Hint string `json:"hint,omitempty"`
}

// Check is one row of the table.
type Check struct {
	Name string
	Run  func(ctx context.Context) Result
}

// Line is a check with its result.
type Line struct {
	Name string `json:"name"`
	Result
}

// Run runs the checks in order. When ctx ends, those that are left say so.
func Run(ctx context.Context, checks []Check) []Line {
	lines := make([]Line, 0, len(checks))
	for _, c := range checks {
		if err := ctx.Err(); err != nil {
			lines = append(lines, Line{c.Name, Result{Fail, "not looked at: " + err.Error(), "run it again"}})
			continue
		}
		lines = append(lines, Line{c.Name, c.Run(ctx)})
	}
	return lines
}

// ExitCode is 1 if a check failed, and 0 if none did.
func ExitCode(lines []Line) int {
	for _, l := range lines {
		if l.Status == Fail {
			return 1
		}
	}
	return 0
}

// Host is the host to look at.
type Host struct {
	// Root is where /proc, /sys, /dev and the rest are. Empty means "/".
	Root string

	// StateDir is where disks and images lie, or will lie.
	StateDir string

	// Firecracker and QEMU are configured paths of the binaries. Empty means
	// the one that PATH finds.
	Firecracker, QEMU string

	// Uplink is banger's link in the host's network. Empty means "banger0".
	Uplink string

	// NetNS is a descriptor of the host's network namespace. Zero means that
	// of this process.
	NetNS int

	// KVM tells whether VMs can use KVM: OK if they can, and Info if that cannot be
	// known. Nil leaves the check out.
	KVM func(ctx context.Context) Result

	// Disks probes the ways to make a disk in a directory, which exists. Nil
	// leaves the check out.
	Disks func(ctx context.Context, dir string) Result

	// Records reads the records in the state directory, which may not exist yet.
	// Nil leaves the check out.
	Records func(ctx context.Context, dir string) Result
}

// Checks is the table of all checks of a host.
func Checks(h Host) []Check {
	if h.Root == "" {
		h.Root = "/"
	}
	if h.Uplink == "" {
		h.Uplink = "banger0"
	}
	checks := []Check{{"rights", h.rights}}
	kvm := func(context.Context) Status { return Info }
	if h.KVM != nil {
		// Probing takes long, and two rows ask.
		var once sync.Once
		var result Result
		probe := func(ctx context.Context) Result {
			once.Do(func() { result = h.KVM(ctx) })
			return result
		}
		kvm = func(ctx context.Context) Status { return probe(ctx).Status }
		checks = append(checks, Check{"kvm", probe})
	}
	checks = append(checks,
		Check{"firecracker", h.firecracker},
		Check{"qemu", h.qemu},
		Check{"vmm", func(ctx context.Context) Result { return h.vmm(ctx, kvm(ctx)) }},
		Check{"space", h.space},
	)
	if h.Disks != nil {
		checks = append(checks, Check{"disks", func(ctx context.Context) Result { return h.Disks(ctx, h.stateDir()) }})
	}
	if h.Records != nil {
		checks = append(checks, Check{"records", func(ctx context.Context) Result { return h.Records(ctx, h.StateDir) }})
	}
	return append(checks,
		Check{"tun", h.tun},
		Check{"kernel", h.kernel},
		Check{"cgroups", h.cgroups},
		Check{"namespace", h.namespace},
		Check{"uplink", h.uplink},
		Check{"forwarding", h.forwarding},
		Check{"firewall", h.firewall},
	)
}

// path is where a path of the host is.
func (h Host) path(p string) string { return filepath.Join(h.Root, p) }

// exists tells whether there is something at a path.
func (h Host) exists(p string) bool {
	_, err := os.Stat(h.path(p))
	return err == nil
}

// read returns the content of a small file without the blanks around it.
func (h Host) read(p string) (string, error) {
	b, err := os.ReadFile(h.path(p))
	return strings.TrimSpace(string(b)), err
}

// rights says what this user may do.
func (h Host) rights(context.Context) Result {
	if os.Geteuid() == 0 {
		return Result{OK, "root: VMs can be started", ""}
	}
	if unix.Access(h.path(layout.DaemonSocketPath), unix.W_OK) == nil {
		return Result{OK, "this user is served by a running bangerd", ""}
	}
	detail := "an ordinary user, and no bangerd serves it"
	if _, err := exec.LookPath("sudo"); err != nil {
		return Result{Warn, detail, "run banger as root"}
	}
	return Result{Warn, detail, "run \"sudo banger vm run\"; what only root can see is not looked at here"}
}
