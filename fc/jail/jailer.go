package jail

import (
	"fmt"
	"os"
	"path"
	"strconv"

	"golang.org/x/sys/unix"
)

// With Firecracker's own jailer there are two jails, one in the other. The stage builds
// the outer one as ever: nothing of the host is in it but the two programs. Below
// jailerBase it makes what will be the inner root, with kernel, disks and the run
// directory in it, and executes the jailer, which is root yet, with those capabilities
// that it needs. The jailer copies the VMM there, makes that the root, makes its own
// device nodes, becomes the VM's user and executes the VMM. What a VMM sees differs:
// its root is a small tmpfs that it can write to, without /proc. The jailer closes all
// descriptors but the standard ones: a disk that goes when nobody has it open is the
// standard input, at its end, so that to read it is to read the null device.
const (
	jailerPath = "/jailer"
	jailerBase = "/jails"
)

// jailerCapabilities are for its mounts, its nodes, what it gives to the VM's user, in
// whose directories it then writes, and to become that user.
var jailerCapabilities = []uintptr{
	unix.CAP_SYS_ADMIN, unix.CAP_MKNOD, unix.CAP_CHOWN, unix.CAP_DAC_OVERRIDE, unix.CAP_SETUID, unix.CAP_SETGID,
}

// jailerArgs are the jailer's arguments: it names the inner root by them.
func (p *plan) jailerArgs() []string {
	args := []string{
		"jailer", "--id", p.Hostname, "--exec-file", BinaryPath, "--chroot-base-dir", jailerBase,
		"--uid", strconv.Itoa(p.UID), "--gid", strconv.Itoa(p.GID),
		// It has a default of its own for this one.
		"--resource-limit", fmt.Sprintf("no-file=%d", orDefault(p.Limits.Files, defaultFiles)), "--",
	}
	return append(args, p.Args[1:]...)
}

// fillForJailer makes both roots: the outer is the working directory.
func (p *plan) fillForJailer(trees []int) error {
	if err := p.placeFiles(trees, true); err != nil {
		return err
	}
	outer, err := unix.Open(".", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open the outer root: %v", err)
	}
	defer unix.Close(outer)
	var vmm unix.Stat_t
	if err := unix.Stat(BinaryPath[1:], &vmm); err != nil {
		return fmt.Errorf("look at the VMM: %v", err)
	}
	inner := path.Join(jailerBase[1:], path.Base(BinaryPath), p.Hostname, "root")
	if err := os.MkdirAll(inner, 0o755); err != nil {
		return fmt.Errorf("make the inner root: %v", err)
	}
	if err := unix.Chdir(inner); err != nil {
		return fmt.Errorf("enter the inner root: %v", err)
	}
	if err := mountNewRoot(vmm.Size+rootBytes, 0); err != nil {
		return err
	}
	if err := p.placeFiles(trees, false); err != nil {
		return err
	}
	if err := unix.Fchdir(outer); err != nil {
		return fmt.Errorf("enter the outer root: %v", err)
	}
	return nil
}
