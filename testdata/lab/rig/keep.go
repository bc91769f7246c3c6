package rig

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// What the keeper says, and what it is told.
const (
	started = "started"
	crash   = "crash"
)

// longAgo is a deadline that has passed.
var longAgo = time.Unix(1, 0)

// keep starts a host, starts it again when it reboots or has to crash, and
// clears all of it away when standard input ends, which it does with the
// process that wanted the host.
func keep(w world) error {
	// What the thread starts is killed with it, so it has to stay.
	runtime.LockOSThread()
	orders := make(chan string)
	go func() {
		defer close(orders)
		for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
			orders <- lines.Text()
		}
	}()
	if len(w.Program) > 0 {
		return errors.Join(keepProgram(w, orders), os.RemoveAll(w.Dir))
	}
	for first := true; ; first = false {
		boot, err := startFirst(w)
		if err != nil {
			return err
		}
		if first {
			fmt.Println(started)
		}
		again, err := attend(w, boot, orders)
		if err != nil || !again {
			return errors.Join(err, os.RemoveAll(w.Dir))
		}
	}
}

// keepProgram runs a program until it ends or there are no more orders.
func keepProgram(w world, orders <-chan string) error {
	cmd := exec.Command(w.Program[0], w.Program[1:]...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stdout
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		return err
	}
	fmt.Println(started)
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	select {
	case err := <-ended:
		return err
	case <-orders:
		cmd.Process.Kill()
		<-ended
		return nil
	}
}

// attend waits for the end of a boot and clears away what it leaves in the
// kernel. It reports whether the host boots again.
func attend(w world, boot *exec.Cmd, orders <-chan string) (again bool, err error) {
	ended := make(chan struct{})
	go func() {
		boot.Wait()
		close(ended)
	}()
	device := fileSystem(boot.Process.Pid)
	select {
	case <-ended:
		// The kernel tells the parent what the first process of a PID
		// namespace asked for: SIGHUP is a reboot.
		ws, ok := boot.ProcessState.Sys().(syscall.WaitStatus)
		again = ok && ws.Signaled() && ws.Signal() == syscall.SIGHUP
		if !again { // it waits for its end
			<-orders
		}
	case _, again = <-orders:
	}
	if err := os.WriteFile(filepath.Join(w.Cgroup, "cgroup.kill"), []byte("1"), 0); err != nil {
		boot.Process.Kill()
	}
	<-ended
	freeLoops(device)
	return again, removeCgroup(w.Cgroup)
}

// startFirst starts a host's first process in a cgroup of its own, which is new
// at each boot: what is started in one that was killed before may be killed too
// (Linux 6.18).
func startFirst(w world) (*exec.Cmd, error) {
	if err := os.Mkdir(w.Cgroup, 0o755); err != nil {
		return nil, err
	}
	group, err := os.Open(w.Cgroup)
	if err != nil {
		return nil, err
	}
	defer group.Close()
	console, err := os.OpenFile(filepath.Join(w.Dir, consoleFile), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return nil, err
	}
	defer console.Close()
	spec, err := json.Marshal(w)
	if err != nil {
		return nil, err
	}
	cmd := exec.Command("/proc/self/exe")
	cmd.Args = []string{firstName, string(spec)}
	cmd.Env = []string{"container=lab"}
	cmd.Stdout, cmd.Stderr = console, console
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  unix.CLONE_NEWNS | unix.CLONE_NEWNET | unix.CLONE_NEWPID | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC,
		UseCgroupFD: true,
		CgroupFD:    int(group.Fd()),
		Setsid:      true,
		Pdeathsig:   syscall.SIGKILL,
	}
	return cmd, cmd.Start()
}

// fileSystem returns the number of the file system that a process has as root,
// once that is another than ours; 0 if it ended before.
func fileSystem(pid int) uint64 {
	var own, its unix.Stat_t
	if unix.Stat("/", &own) != nil {
		return 0
	}
	for {
		if err := unix.Stat(fmt.Sprintf("/proc/%d/root/", pid), &its); err != nil {
			return 0
		}
		if its.Dev != own.Dev {
			return its.Dev
		}
		time.Sleep(time.Millisecond)
	}
}

// freeLoops detaches the loop devices over files of a host's file system: they
// are this machine's, and do not end with the host's processes.
func freeLoops(device uint64) {
	devices, err := filepath.Glob("/dev/loop[0-9]*")
	if err != nil || device == 0 {
		return
	}
	for _, name := range devices {
		f, err := os.Open(name)
		if err != nil {
			continue
		}
		ours := backedBy(f, device)
		if ours {
			unix.IoctlSetInt(int(f.Fd()), unix.LOOP_CLR_FD, 0)
		}
		f.Close()
		// Others, like udev, may have it open too: the last one detaches it.
		for tries := 0; ours && tries < 1000; tries++ {
			time.Sleep(time.Millisecond)
			if f, err = os.Open(name); err != nil {
				break
			}
			ours = backedBy(f, device)
			f.Close()
		}
	}
}

// backedBy reports whether a loop device is over a file of a file system.
func backedBy(loop *os.File, device uint64) bool {
	info, err := unix.IoctlLoopGetStatus64(int(loop.Fd()))
	return err == nil && info.Device == device
}

// removeCgroup waits until no process is in a cgroup, and removes it with those
// below it.
func removeCgroup(dir string) error {
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		events, err := os.ReadFile(filepath.Join(dir, "cgroup.events"))
		if err != nil {
			return err
		}
		if strings.Contains(string(events), "populated 0\n") {
			break
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("remove %s: processes do not end", dir)
		}
	}
	var all []string
	filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			all = append(all, name)
		}
		return nil
	})
	for i := len(all) - 1; i >= 0; i-- {
		if err := os.Remove(all[i]); err != nil {
			return err
		}
	}
	return nil
}
