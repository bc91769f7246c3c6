package jail

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"

	"golang.org/x/sys/unix"
)

// StageName is the argv[0] under which Start runs the own binary. Whoever has a
// main function must call Stage for it.
const StageName = "banger-jail"

// Stage turns the process into a jailed VMM and does not return if that worked.
// It is the whole program of a process with the name StageName, which only this
// package creates; it returns the exit status if it was refused, failed, or is not
// wanted any more.
func Stage(args []string) int {
	if os.Geteuid() != 0 || len(args) != 0 {
		fmt.Fprintln(os.Stderr, StageName+": this role is started by banger-helper only")
		return 2
	}
	// Namespaces, root and rights belong to a thread; the one that has changed them
	// must be the one that executes.
	runtime.LockOSThread()
	setName(StageName)
	p, err := receivePlan(planFD)
	if err == nil && p == nil {
		return 0
	}
	if err == nil {
		err = p.enter()
	}
	_, _ = unix.Write(planFD, []byte(err.Error())) // whoever has gone needs no answer
	return 1
}

// setName is what ps shows of the process, which was started by a link. Nothing
// depends on it.
func setName(name string) {
	if f, err := os.OpenFile("/proc/self/comm", os.O_WRONLY, 0); err == nil {
		f.WriteString(name)
		f.Close()
	}
}

// enter builds the jail, goes in and becomes the VMM. It returns only with an error.
func (p *plan) enter() error {
	for _, std := range []int{1, 2} {
		if err := unix.Dup3(p.fds[logAt], std, 0); err != nil {
			return fmt.Errorf("open log as descriptor %d: %v", std, err)
		}
	}
	unix.Umask(0o022) // whatever the helper's is
	trees, err := p.cloneTrees()
	if err != nil {
		return err
	}
	if err := p.buildRoot(trees); err != nil {
		return err
	}
	if err := unix.Sethostname([]byte(p.Hostname)); err != nil {
		return fmt.Errorf("set host name: %v", err)
	}
	if err := p.dropRights(); err != nil {
		return err
	}
	// From here on there is nothing of the host in reach: the descriptors that are
	// still open close themselves with the exec.
	if err := unix.CloseRange(planFD, ^uint(0), unix.CLOSE_RANGE_CLOEXEC); err != nil {
		return fmt.Errorf("mark descriptors: %v", err)
	}
	if err := p.keepDevices(); err != nil {
		return err
	}
	program, args := BinaryPath, p.Args
	if p.Jailer {
		program, args = jailerPath, p.jailerArgs()
	}
	err = unix.Exec(program, args, nil)
	if errors.Is(err, unix.ENOENT) {
		err = fmt.Errorf("%v (is its loader or interpreter missing in the jail?)", err)
	}
	return fmt.Errorf("execute %s: %v", program, err)
}

// dropRights gives up everything that root has, for good, but what the jailer needs,
// if there is one.
func (p *plan) dropRights() error {
	limits := []struct {
		name  string
		which int
		value uint64
		given bool
	}{
		{"descriptors", unix.RLIMIT_NOFILE, orDefault(p.Limits.Files, defaultFiles), true},
		{"core size", unix.RLIMIT_CORE, 0, true},
		{"file size", unix.RLIMIT_FSIZE, p.Limits.FileBytes, p.Limits.FileBytes != 0},
	}
	for _, l := range limits {
		if !l.given {
			continue
		}
		if err := unix.Setrlimit(l.which, &unix.Rlimit{Cur: l.value, Max: l.value}); err != nil {
			return fmt.Errorf("limit %s to %d: %v", l.name, l.value, err)
		}
	}
	for c := uintptr(0); c <= unix.CAP_LAST_CAP; c++ {
		if p.Jailer && slices.Contains(jailerCapabilities, c) {
			continue
		}
		// EINVAL: the kernel is older than this capability.
		if err := unix.Prctl(unix.PR_CAPBSET_DROP, c, 0, 0, 0); err != nil && err != unix.EINVAL {
			return fmt.Errorf("drop capability %d: %v", c, err)
		}
	}
	// Directly, and not by the library's calls: those change all threads, which takes
	// milliseconds, and only this one survives the exec.
	if _, _, errno := unix.RawSyscall(unix.SYS_SETGROUPS, 0, 0, 0); errno != 0 {
		return fmt.Errorf("drop groups: %v", errno)
	}
	become := p.becomeVM
	if p.Jailer {
		become = clearInheritable // the jailer does the rest
	}
	if err := become(); err != nil {
		return err
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("forbid new privileges: %v", err)
	}
	// The sockets that the VMM will make are guarded by the jail directory, and must
	// admit the owner, who reaches them through a descriptor.
	unix.Umask(0)
	return nil
}

// clearInheritable sees to it that no capability is handed down by that set.
func clearInheritable() error {
	head := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var sets [2]unix.CapUserData
	err := unix.Capget(&head, &sets[0])
	if err == nil {
		sets[0].Inheritable, sets[1].Inheritable = 0, 0
		err = unix.Capset(&head, &sets[0])
	}
	if err != nil {
		return fmt.Errorf("clear inheritable capabilities: %v", err)
	}
	return nil
}

// becomeVM takes the VM's ids, and with them no capability.
func (p *plan) becomeVM() error {
	uid, gid := uintptr(p.UID), uintptr(p.GID)
	if _, _, errno := unix.RawSyscall(unix.SYS_SETRESGID, gid, gid, gid); errno != 0 {
		return fmt.Errorf("become gid %d: %v", p.GID, errno)
	}
	if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, uid, uid, uid); errno != 0 {
		return fmt.Errorf("become uid %d: %v", p.UID, errno)
	}
	// The change of uid has cleared all sets but the inheritable.
	head := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var none [2]unix.CapUserData
	if err := unix.Capset(&head, &none[0]); err != nil {
		return fmt.Errorf("clear capabilities: %v", err)
	}
	return nil
}

// defaultFiles is the number of descriptors that a VMM may have if nothing is said.
const defaultFiles = 2048

func orDefault(v, def uint64) uint64 {
	if v == 0 {
		return def
	}
	return v
}
