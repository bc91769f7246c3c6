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
)

// Start makes a jail, starts the VMM in it and returns when the VMM listens on its
// API socket, which then belongs to the owner with mode 0600. It gives up when ctx is
// done; after an error nothing is left, neither process nor directory, unless that is
// ErrRunning: a process that was killed and hangs in the kernel keeps its jail.
//
// The VMM is not tied to the caller: it has a session of its own and outlives it.
func Start(ctx context.Context, s *Spec) (*Process, error) { return startIn(ctx, s, startStage) }

// startIn is Start in a stage that comes from stage.
func startIn(ctx context.Context, s *Spec, stage func() (*stage, error)) (*Process, error) {
	if err := s.check(); err != nil {
		return nil, err
	}
	d, err := makeDir(s)
	if err != nil {
		return nil, err
	}
	p, err := spawn(ctx, s, d, stage)
	if err == nil {
		if err = p.awaitAPI(ctx, s); err == nil {
			return p, nil
		}
		err = errors.Join(fmt.Errorf("start VMM %s: %w%s", s.ID, err, logTail(s.Log)), p.discard())
	}
	if !errors.Is(err, ErrRunning) { // else Remove is what is left to do, once it is gone
		err = errors.Join(err, d.remove())
	}
	return nil, errors.Join(err, d.close())
}

// spawn brings a stage to the point where it has become the VMM.
func spawn(ctx context.Context, s *Spec, d *dir, stage func() (*stage, error)) (*Process, error) {
	binary, err := os.Open(s.Binary)
	if err != nil {
		return nil, fmt.Errorf("open VMM: %w", err)
	}
	defer binary.Close()
	var jailer *os.File
	if s.Jailer != "" {
		if jailer, err = os.Open(s.Jailer); err != nil {
			return nil, fmt.Errorf("open jailer: %w", err)
		}
		defer jailer.Close()
	}
	plan, files, err := s.plan(d, binary, jailer)
	if err != nil {
		return nil, err
	}
	st, err := stage()
	if err != nil {
		return nil, err
	}
	defer st.talk.Close()
	p, err := st.adopt(s.UID, d)
	if err != nil {
		return nil, err
	}
	if err := st.tell(ctx, plan, files); err != nil {
		// The directory is the caller's to remove: it exists without a process too.
		err = fmt.Errorf("jail VMM %s: %w", s.ID, err)
		return nil, errors.Join(err, p.discard())
	}
	return p, nil
}

// plan returns what the stage is told and what it is given. The files remain open.
func (s *Spec) plan(d *dir, binary, jailer *os.File) (*plan, []*os.File, error) {
	p := &plan{
		Hostname: s.ID, UID: s.UID, GID: s.GID, Args: s.Args,
		System: s.System || dynamic(binary), KVM: s.KVM, Jailer: jailer != nil, Limits: s.Limits,
	}
	if p.Jailer && p.System {
		return nil, nil, fmt.Errorf("start by jailer: %s needs a loader of the host, which is not in its jail", s.Binary)
	}
	files := []*os.File{logAt: s.Log, rootAt: d.root}
	var err error
	add := func(file *os.File, pf planFile) {
		files, p.Files = append(files, file), append(p.Files, pf)
		if pf.Device {
			return // its node will be the VM's own
		}
		if aerr := checkAdmits(file, s.UID, s.GID, !pf.ReadOnly); aerr != nil && err == nil {
			err = fmt.Errorf("check /%s: %w", pf.Target, aerr)
		}
	}
	add(d.run, planFile{Target: RunPath[1:], Dir: true})
	add(binary, planFile{Target: BinaryPath[1:], ReadOnly: true, Exec: true, Outer: p.Jailer})
	if p.Jailer {
		add(jailer, planFile{Target: jailerPath[1:], ReadOnly: true, Exec: true, Outer: true})
	}
	add(s.Kernel, planFile{Target: KernelPath[1:], ReadOnly: true})
	if s.Initrd != nil {
		add(s.Initrd, planFile{Target: InitrdPath[1:], ReadOnly: true})
	}
	for i, disk := range s.Disks {
		add(disk.File, planFile{Target: DiskPath(i)[1:], ReadOnly: disk.ReadOnly, Device: isBlockDevice(disk.File)})
	}
	return p, files, err
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
