package doctor

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Below these versions Firecracker has faults by which a guest can harm the
// host: the 1.14 line is mended in its fourth release, 1.15 in its first.
var (
	floor14 = version{1, 14, 4}
	floor15 = version{1, 15, 1}
)

// versionTimeout is for a program that is asked for its version and hangs.
const versionTimeout = 5 * time.Second

// nobody is the user who has no rights, and no files.
const nobody = 65534

type version [3]int

func (v version) String() string { return fmt.Sprintf("%d.%d.%d", v[0], v[1], v[2]) }

func (v version) before(w version) bool {
	for i := range v {
		if v[i] != w[i] {
			return v[i] < w[i]
		}
	}
	return false
}

func (v version) belowFloor() bool {
	return v.before(floor14) || !v.before(version{1, 15, 0}) && v.before(floor15)
}

// Floor says which versions of Firecracker are fit for use.
const Floor = "1.14.4, or 1.15.1 and later"

// BelowFloor reports whether a version of Firecracker, such as "1.14.2", has known
// holes. What is no version counts as such.
func BelowFloor(text string) bool {
	v, ok := parseVersion(text)
	return !ok || v.belowFloor()
}

var versionPattern = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`(\d+)\.(\d+)(?:\.(\d+))?`) })

// parseVersion returns the first version in a program's words.
func parseVersion(words string) (version, bool) {
	m := versionPattern().FindStringSubmatch(words)
	if m == nil {
		return version{}, false
	}
	var v version
	for i := range v {
		// A missing third number is zero; a number too long for an int is no version.
		n, err := strconv.Atoi("0" + m[i+1])
		if err != nil {
			return version{}, false
		}
		v[i] = n
	}
	return v, true
}

// firecracker looks for the binary and its version. That it is missing is no
// fault by itself: see vmm.
func (h Host) firecracker(ctx context.Context) Result {
	const get = "install Firecracker 1.14.4 or later from https://github.com/firecracker-microvm/firecracker/releases; where banger is installed, by \"sudo banger system install --firecracker PATH\""
	path, v, err := findProgram(ctx, h.Firecracker, "firecracker")
	switch {
	case errors.Is(err, exec.ErrNotFound), errors.Is(err, fs.ErrNotExist):
		return Result{Info, "not found: VMs run in QEMU", get}
	case err != nil:
		return Result{Warn, err.Error(), get}
	case v.belowFloor():
		return Result{Warn, fmt.Sprintf("%s is version %s, which has known holes", path, v), get}
	}
	return Result{OK, fmt.Sprintf("%s, version %s", path, v), ""}
}

// qemuFloor is the first QEMU whose microvm machine takes all that banger uses.
var qemuFloor = version{7, 2, 0}

func (h Host) qemuName() string {
	if runtime.GOARCH == "arm64" {
		return "qemu-system-aarch64"
	}
	return "qemu-system-x86_64"
}

// qemu looks for the binary and its version. That it is missing is no fault by
// itself: see vmm.
func (h Host) qemu(ctx context.Context) Result {
	const get = "install it: \"apt install qemu-system-x86\" on Debian, \"dnf install qemu-system-x86-core\" on Fedora"
	path, v, err := findProgram(ctx, h.QEMU, h.qemuName())
	switch {
	case errors.Is(err, exec.ErrNotFound):
		return Result{Info, "not found: VMs need Firecracker and KVM", get}
	case err != nil:
		return Result{Warn, err.Error(), get}
	case v.before(qemuFloor):
		return Result{Warn, fmt.Sprintf("%s is version %s, tried are %s and later", path, v, qemuFloor), get}
	}
	return Result{OK, fmt.Sprintf("%s, version %s", path, v), ""}
}

// vmm says in what a VM would run, as far as that is known: kvm is how the check of
// KVM ended.
func (h Host) vmm(ctx context.Context, kvm Status) Result {
	_, _, fcErr := findProgram(ctx, h.Firecracker, "firecracker")
	_, _, qemuErr := findProgram(ctx, h.QEMU, h.qemuName())
	switch {
	case kvm == OK && fcErr == nil:
		return Result{OK, "VMs run in Firecracker, with KVM", ""}
	case kvm == OK && qemuErr == nil:
		return Result{OK, "VMs run in QEMU, with KVM", ""}
	case kvm == Info && fcErr == nil:
		return Result{Info, "VMs run in Firecracker if they can use KVM, which is not known here", "see kvm"}
	case kvm == Info && qemuErr == nil:
		return Result{Info, "VMs run in QEMU; whether with KVM is not known here", "see kvm"}
	case qemuErr == nil:
		return Result{Warn, "VMs are emulated by QEMU: all works, slowly", "see kvm"}
	case fcErr == nil:
		return Result{Fail, "Firecracker cannot run without KVM, and QEMU is missing", "install QEMU, or see kvm"}
	}
	return Result{Fail, "neither Firecracker nor QEMU is there", "install one: see firecracker and qemu"}
}

// findProgram finds a program by its configured path or else its name, and asks
// it for its version.
func findProgram(ctx context.Context, configured, name string) (path string, v version, err error) {
	if configured != "" {
		name = configured
	}
	if path, err = exec.LookPath(name); err != nil {
		if configured == "" {
			return "", version{}, exec.ErrNotFound
		}
		return "", version{}, fmt.Errorf("configured %s: %w", configured, errors.Unwrap(err))
	}
	words, err := AskVersion(ctx, path)
	if err != nil {
		return path, version{}, fmt.Errorf("%s --version: %v", path, err)
	}
	v, ok := parseVersion(words)
	if !ok {
		first, _, _ := strings.Cut(words, "\n")
		return path, version{}, fmt.Errorf("%s --version: no version in %.60q", path, first)
	}
	return path, v, nil
}

// AskVersion returns what a program says of its version. Root asks as nobody: it
// runs nothing that others may have made.
func AskVersion(ctx context.Context, path string) (words string, err error) {
	// Run by its descriptor: nobody may not get to where root found it.
	program, err := os.OpenFile(path, unix.O_PATH, 0)
	if err != nil {
		return "", err
	}
	defer program.Close()
	ctx, cancel := context.WithTimeout(ctx, versionTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, "/proc/self/fd/3", "--version")
	cmd.Args[0], cmd.ExtraFiles = path, []*os.File{program}
	cmd.Env, cmd.Dir = []string{}, "/"
	cmd.WaitDelay = time.Second
	if os.Geteuid() == 0 {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	}
	var out bytes.Buffer
	cmd.Stdout = limited{&out, 4096}
	err = cmd.Run()
	var notRun *fs.PathError
	if errors.As(err, &notRun) {
		err = notRun.Err // whose path is the descriptor's
	}
	return out.String(), err
}

// limited keeps the first bytes of what is written, and swallows the rest.
type limited struct {
	w   *bytes.Buffer
	max int
}

func (l limited) Write(p []byte) (int, error) {
	l.w.Write(p[:min(len(p), max(0, l.max-l.w.Len()))])
	return len(p), nil
}

var _ io.Writer = limited{}
