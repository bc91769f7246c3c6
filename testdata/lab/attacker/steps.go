package main

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"banger/ops"
)

// steps asks for operations out of order, again, and on VMs of nobody.
func (a *attacker) steps() error {
	if err := a.guess(); err != nil {
		return err
	}
	handle, err := a.victim()
	if err != nil {
		return err
	}
	s := &script{attacker: a, ctx: context.Background()}
	first := s.reserve("steps-1")
	if again := s.reserve("steps-1"); again != first {
		a.breach("VMReserve: asked again it gave another VM")
	}
	second := s.reserve("steps-2")
	disk, err := a.disk("disk")
	if err != nil {
		return err
	}
	defer disk.Close()

	// Nothing runs yet.
	s.want(ops.Conflict, "reconnect before start", s.reconnect(first))
	s.want(ops.Conflict, "seal before start", s.seal(first))
	s.want("", "stop before start", s.stop(first))
	unknown := startArgs(first)
	unknown.Kernel = digestOf("nobody's")
	s.want(ops.NotFound, "start on a kernel that nobody gave", s.start("steps-a", unknown, disk))
	s.want(ops.Invalid, "start on one disk twice", s.start("steps-a", startArgs(first), disk, disk))
	taken, err := victimDisk()
	if err != nil {
		return err
	}
	defer taken.Close()
	s.want(ops.Conflict, "start on the disk of a VM that runs", s.start("steps-a", startArgs(first), taken))
	s.want(ops.Conflict, "start what runs", s.start("steps-a", startArgs(handle), disk))

	// One runs: what came with it is good for nothing else.
	s.want("", "start", s.start("steps-b", startArgs(first), disk))
	a.misuse(s.files)
	s.want("", "the same request again", s.start("steps-b", startArgs(first), disk))
	s.want(ops.Conflict, "another request", s.start("steps-c", startArgs(first), disk))
	s.want(ops.Conflict, "start on the disk of the other", s.start("steps-d", startArgs(second), disk))
	for i, f := range s.files {
		s.want(ops.Invalid, fmt.Sprint("start on what came with a VM, ", i), s.start("steps-e", startArgs(second), f))
		_, _, err := ops.KernelPut.Call(s.ctx, a.client, ops.KernelPutArgs{Digest: digestOf("nobody's")}, f)
		s.want(ops.Invalid, fmt.Sprint("keep what came with a VM, ", i), err)
	}

	// Nothing runs any more.
	s.want("", "stop", s.stop(first))
	s.want("", "stop again", s.stop(first))
	s.want(ops.Conflict, "reconnect after stop", s.reconnect(first))
	s.want(ops.Conflict, "seal after stop", s.seal(first))
	for _, vm := range []string{first, second} {
		s.want("", "release", s.release(vm))
		s.want("", "release again", s.release(vm))
	}
	s.want(ops.NotFound, "start what is released", s.start("steps-b", startArgs(first), disk))
	s.want(ops.NotFound, "stop what is released", s.stop(first))
	s.want(ops.NotFound, "reconnect what is released", s.reconnect(first))
	s.want(ops.NotFound, "seal what is released", s.seal(first))
	third := s.reserve("steps-1")
	if third == first {
		a.breach("VMReserve: a handle that was released is in use again")
	}
	s.want("", "release", s.release(third))
	closeAll(s.files)
	return s.err
}

// guess asks for VMs by handles that nobody has. What is answered all the same must
// have changed nothing, which run looks at.
func (a *attacker) guess() error {
	disk, err := a.disk("guess")
	if err != nil {
		return err
	}
	defer disk.Close()
	w := &wire{socket: a.socket}
	defer w.close()
	for _, op := range ops.All() {
		d := op.Declaration()
		var files []*os.File
		for range d.MinFiles {
			files = append(files, disk)
		}
		for i := range 100 {
			guess := strings.Repeat(fmt.Sprintf("%02x", i), 16)
			if i > 2 {
				random := make([]byte, 16)
				rand.Read(random) // never fails
				guess = hex.EncodeToString(random)
			}
			s, err := wellFormed(op, guess, digest)
			if err != nil {
				return err
			}
			if s.args["handle"] == nil {
				break // it names no VM
			}
			got, err := w.say(s.envelope(nil), fdsOf(files)...)
			if err != nil {
				return err
			}
			a.tally(d.Name, got.code)
			if len(got.files) > 0 {
				a.breach("%s: a guessed handle gave %d descriptors", d.Name, len(got.files))
			}
			closeAll(got.files)
			if got.code != string(ops.NotFound) && got.code != accepted {
				a.breach("%s: a guessed handle: %s: %s", d.Name, got.code, got.text)
			}
		}
	}
	return nil
}

// script is a talk in an order that is not the daemon's. It remembers the first error.
type script struct {
	*attacker
	ctx   context.Context
	files []*os.File // of the VM that runs
	err   error
}

// want notes a breach if err is not a refusal with code; none is no refusal.
func (s *script) want(code ops.Code, what string, err error) {
	got := ops.Code("")
	if refused := (*ops.Error)(nil); errors.As(err, &refused) {
		got = refused.Code
	} else if err != nil {
		s.err = errors.Join(s.err, fmt.Errorf("%s: %w", what, err))
	}
	if got != code {
		s.breach("%s: got %q (%v), want %q", what, got, err, code)
	}
	if got == "" {
		got = accepted
	}
	s.tally("in order", string(got))
}

func (s *script) reserve(id string) string {
	r, _, err := ops.VMReserve.Call(ops.WithRequestID(s.ctx, id), s.client, ops.None{})
	s.want("", "reserve", err)
	return r.Handle
}

func (s *script) start(id string, args ops.VMStartArgs, files ...*os.File) error {
	_, got, err := ops.VMStart.Call(ops.WithRequestID(s.ctx, id), s.client, args, files...)
	if s.files == nil {
		s.files = got
	} else {
		closeAll(got)
	}
	return err
}

func (s *script) reconnect(handle string) error {
	_, files, err := ops.VMReconnect.Call(s.ctx, s.client, ops.HandleArgs{Handle: handle})
	closeAll(files)
	return err
}

func (s *script) seal(handle string) error {
	_, _, err := ops.VMSeal.Call(s.ctx, s.client, ops.HandleArgs{Handle: handle})
	return err
}

func (s *script) stop(handle string) error {
	_, _, err := ops.VMStop.Call(s.ctx, s.client, ops.HandleArgs{Handle: handle})
	return err
}

func (s *script) release(handle string) error {
	_, _, err := ops.VMRelease.Call(s.ctx, s.client, ops.HandleArgs{Handle: handle})
	return err
}

// victimDisk opens the disk of a VM: it is the owner's.
func victimDisk() (*os.File, error) {
	disks, err := filepath.Glob("/var/lib/banger/vms/*/disk*")
	if err == nil && len(disks) == 0 {
		err = errors.New("find a disk: there is none below /var/lib/banger/vms")
	}
	if err != nil {
		return nil, err
	}
	return os.OpenFile(disks[0], os.O_RDWR, 0)
}

// misuse tries what the descriptors of VMStart are not for: the API socket, a pidfd,
// a listener, the directory of the VMM's sockets and the serial log.
func (a *attacker) misuse(files []*os.File) {
	if len(files) != 5 {
		a.breach("start: %d descriptors, want 5", len(files))
		return
	}
	pidfd, dir, log := int(files[1].Fd()), int(files[3].Fd()), files[4]
	for what, try := range map[string]func() error{
		"kill the VMM":              func() error { return unix.PidfdSendSignal(pidfd, unix.SIGKILL, nil, 0) },
		"take the VMM's descriptor": func() error { return do(unix.PidfdGetfd(pidfd, 0, 0)) },
		"enter the VMM's namespace": func() error { return unix.Setns(pidfd, unix.CLONE_NEWNET) },
		"list the jail":             func() error { return do(unix.Openat(dir, ".", unix.O_RDONLY|unix.O_DIRECTORY, 0)) },
		"leave the jail":            func() error { return do(unix.Openat(dir, "..", unix.O_RDONLY|unix.O_DIRECTORY, 0)) },
		"leave the jail twice":      func() error { return do(unix.Openat(dir, "../..", unix.O_PATH, 0)) },
		"read the jail's record":    func() error { return do(unix.Openat(dir, "../record.json", unix.O_RDONLY, 0)) },
		"plant a file in the jail":  func() error { return do(unix.Openat(dir, "planted", unix.O_CREAT|unix.O_RDWR, 0o600)) },
		"plant a link in the jail":  func() error { return unix.Symlinkat("/etc/shadow", dir, "planted") },
		"remove the API socket":     func() error { return unix.Unlinkat(dir, "api.sock", 0) },
		"own the jail":              func() error { return unix.Fchownat(dir, "", os.Getuid(), -1, unix.AT_EMPTY_PATH) },
		"write the log":             func() error { return do(log.Write([]byte("x"))) },
		"cut the log":               func() error { return log.Truncate(0) },
		"open the log for writing": func() error {
			return do(unix.Open(fmt.Sprintf("/proc/self/fd/%d", log.Fd()), unix.O_WRONLY, 0))
		},
		"own the log": func() error { return log.Chown(os.Getuid(), -1) },
	} {
		if err := try(); err == nil {
			a.breach("with what came back one can %s", what)
		}
		a.tally("VMStart", "misuse")
	}
}

// do drops a result that is of no interest.
func do[T any](_ T, err error) error { return err }
