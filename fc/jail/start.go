package jail

import (
	"bytes"
	"context"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Start makes a jail, starts the VMM in it and returns when the VMM listens on its
// API socket, which then belongs to the owner with mode 0600. It gives up when ctx is
// done; after an error nothing is left, neither process nor directory.
//
// The VMM is not tied to the caller: it has a session of its own and outlives it.
func Start(ctx context.Context, s *Spec) (*Process, error) {
	if err := s.check(); err != nil {
		return nil, err
	}
	d, err := makeDir(s)
	if err != nil {
		return nil, err
	}
	p, err := spawn(ctx, s, d)
	if err != nil {
		return nil, errors.Join(err, d.remove(), d.close())
	}
	err = p.awaitAPI(ctx, s)
	if err != nil {
		err = fmt.Errorf("start VMM %s: %w%s", s.ID, err, logTail(s.Log))
		return nil, errors.Join(err, p.Kill(), p.gone(), p.Release())
	}
	return p, nil
}

// spawn runs the stage to the point where it has become the VMM.
func spawn(ctx context.Context, s *Spec, d *dir) (*Process, error) {
	files, plan, err := s.files(d)
	defer func() {
		for _, f := range files.opened {
			f.Close()
		}
	}()
	if err != nil {
		return nil, err
	}
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("make plan socket: %v", err)
	}
	if err := unix.SetNonblock(pair[0], true); err != nil { // lets a deadline end a read
		return nil, fmt.Errorf("make plan socket: %v", err)
	}
	talk, theirs := os.NewFile(uintptr(pair[0]), "plan"), os.NewFile(uintptr(pair[1]), "plan")
	defer talk.Close()

	p, err := launch(files.inherit(theirs), s.UID, d)
	theirs.Close()
	if err != nil {
		return nil, err
	}
	if err := p.tellPlan(ctx, talk, plan); err != nil {
		// The directory is the caller's to remove: it exists without a process too.
		err = fmt.Errorf("jail VMM %s: %w", s.ID, err)
		return nil, errors.Join(err, p.Kill(), p.gone(), p.closeFiles())
	}
	return p, nil
}

// launch forks the stage and writes its record.
func launch(files []*os.File, uid int, d *dir) (*Process, error) {
	pidfd := -1
	proc, err := os.StartProcess("/proc/self/exe", []string{StageName}, &os.ProcAttr{
		Dir:   "/",
		Env:   []string{}, // nil would be our own
		Files: files,
		Sys: &unix.SysProcAttr{
			Cloneflags: unix.CLONE_NEWPID | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS,
			Setsid:     true,
			PidFD:      &pidfd,
		},
	})
	if err != nil {
		return nil, fmt.Errorf("start jail stage: %w", mountError("fork", cause(err)))
	}
	pid := proc.Pid
	_ = proc.Release() // waited for by pidfd
	p, err := newProcess(pidfd, Record{PID: pid, UID: uid, Dir: d.path()}, d, true)
	if err != nil {
		return nil, err
	}
	if p.record.StartTicks, err = startTicks(pid); err == nil {
		err = d.writeRecord(p.record)
	}
	if err != nil {
		return nil, errors.Join(err, p.Kill(), p.gone(), p.closeFiles())
	}
	return p, nil
}

// tellPlan sends the plan and waits until the stage has become the VMM.
func (p *Process) tellPlan(ctx context.Context, talk *os.File, plan *plan) error {
	defer interrupt(ctx, talk)()
	if err := plan.send(talk); err != nil {
		return err
	}
	rc, err := talk.SyscallConn()
	if err != nil {
		return err
	}
	if err := rc.Control(func(fd uintptr) { err = unix.Shutdown(int(fd), unix.SHUT_WR) }); err != nil {
		return err
	}
	if err != nil {
		return fmt.Errorf("send plan: %v", err)
	}
	told, err := io.ReadAll(io.LimitReader(talk, maxPlan))
	switch {
	case ctx.Err() != nil:
		return waitError(ctx)
	case err != nil:
		return fmt.Errorf("read from jail stage: %v", err)
	case len(told) > 0:
		return errors.New(string(told))
	}
	return nil
}

// stageFiles are the descriptors of a stage.
type stageFiles struct {
	std    [3]*os.File
	dir    *os.File
	rest   []*os.File
	opened []*os.File // to be closed once the stage has them
}

// inherit returns them in the order of the descriptor numbers.
func (f *stageFiles) inherit(talk *os.File) []*os.File {
	return append([]*os.File{f.std[0], f.std[1], f.std[2], talk, f.dir}, f.rest...)
}

// files opens what the stage needs and writes the plan that goes with it.
func (s *Spec) files(d *dir) (stageFiles, *plan, error) {
	var f stageFiles
	null, err := os.OpenFile("/dev/null", os.O_RDWR, 0)
	if err != nil {
		return f, nil, fmt.Errorf("open null device: %v", err)
	}
	f.opened = append(f.opened, null)
	binary, err := os.Open(s.Binary)
	if err != nil {
		return f, nil, fmt.Errorf("open VMM: %w", err)
	}
	f.opened = append(f.opened, binary)
	f.std, f.dir = [3]*os.File{null, s.Log, s.Log}, d.root

	p := &plan{
		Hostname: s.ID, UID: s.UID, GID: s.GID, Args: s.Args,
		System: s.System || dynamic(binary), KVM: s.KVM, Binds: s.Binds, Limits: s.Limits,
	}
	add := func(file *os.File, pf planFile) {
		f.rest, p.Files = append(f.rest, file), append(p.Files, pf)
		if aerr := checkAdmits(file, s.UID, s.GID, !pf.ReadOnly); aerr != nil && err == nil {
			err = fmt.Errorf("check /%s: %w", pf.Target, aerr)
		}
	}
	add(d.run, planFile{Target: "run", Dir: true})
	add(binary, planFile{Target: BinaryPath[1:], ReadOnly: true, Exec: true})
	add(s.Kernel, planFile{Target: KernelPath[1:], ReadOnly: true})
	if s.Initrd != nil {
		add(s.Initrd, planFile{Target: InitrdPath[1:], ReadOnly: true})
	}
	for i, disk := range s.Disks {
		add(disk.File, planFile{Target: DiskPath(i)[1:], ReadOnly: disk.ReadOnly})
	}
	return f, p, err
}

// dynamic reports whether a binary asks for a loader, or is none that we can read,
// a script for example.
func dynamic(f *os.File) bool {
	e, err := elf.NewFile(f)
	if err != nil {
		return true
	}
	for _, p := range e.Progs {
		if p.Type == elf.PT_INTERP {
			return true
		}
	}
	return false
}

// startTicks returns when a process started, in clock ticks since boot. With the
// pid it identifies a process for as long as the host runs.
func startTicks(pid int) (uint64, error) {
	b, err := readSmall(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	// The second field is a name in parentheses which may hold anything.
	fields := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
	if len(fields) < 20 {
		return 0, fmt.Errorf("read start time of process %d: too few fields", pid)
	}
	return strconv.ParseUint(fields[19], 10, 64)
}

// readSmall reads a file of which a page is enough.
func readSmall(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, 4096))
}

// logTail quotes the end of a log for the error of a failed start.
func logTail(log *os.File) string {
	const most = 512
	fi, err := log.Stat()
	if err != nil || fi.Size() == 0 {
		return ""
	}
	b := make([]byte, min(most, fi.Size()))
	n, _ := log.ReadAt(b, fi.Size()-int64(len(b)))
	if n == 0 {
		return ""
	}
	return fmt.Sprintf("; the VMM said %q", strings.TrimSpace(string(b[:n])))
}
