package jail

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// maxPlan bounds what the stage reads, and what it may answer.
const maxPlan = 64 << 10

// maxFiles bounds what a plan describes: run, binary, jailer, kernel, initrd and disks.
const maxFiles = 5 + MaxDisks

// planFD is the only descriptor that the stage is started with, but for three null
// devices: a SOCK_SEQPACKET socket. The plan comes in, an error goes out.
const planFD = 3

// Descriptors that come with a plan.
const (
	logAt   = iota // standard output and error
	rootAt         // directory of the jail, where the new root is mounted
	firstAt        // what plan.Files describes, in order
)

// plan is what Start tells the stage.
type plan struct {
	Hostname string
	UID, GID int
	Args     []string
	System   bool
	KVM      bool
	Jailer   bool // starts the VMM; both are among Files, and Outer
	Files    []planFile
	Limits   Limits

	fds []int // those that came with it
}

// planFile says what becomes of the descriptor at firstAt+i.
type planFile struct {
	// Target is the name in the new root, without a leading slash.
	Target   string
	Dir      bool
	ReadOnly bool
	Exec     bool
	// Outer is beside the jailer's jail, not in it.
	Outer bool
	// Device is a block device: it becomes a node, and the VMM inherits it.
	Device bool
}

// send gives the plan and its files to the stage behind talk.
func (p *plan) send(talk *os.File, files []*os.File) error {
	b, err := json.Marshal(p)
	if err != nil {
		return fmt.Errorf("encode plan: %v", err)
	}
	if len(b) > maxPlan {
		return fmt.Errorf("encode plan: %d bytes, at most %d", len(b), maxPlan)
	}
	fds := make([]int, len(files))
	for i, f := range files {
		fds[i] = int(f.Fd())
	}
	err = control(talk, func(fd int) error { return unix.Sendmsg(fd, b, unix.UnixRights(fds...), nil, unix.MSG_NOSIGNAL) })
	if err != nil {
		return fmt.Errorf("send plan: %v", err)
	}
	return nil
}

// receivePlan waits for the plan. It returns nil if the sender went away: it has no
// use for the stage, or no time left.
func receivePlan(talk int) (*plan, error) {
	text, rights := make([]byte, maxPlan), make([]byte, unix.CmsgSpace(4*(firstAt+maxFiles)))
	n, oobn, flags, _, err := unix.Recvmsg(talk, text, rights, unix.MSG_CMSG_CLOEXEC)
	switch {
	case err != nil:
		return nil, fmt.Errorf("read plan: %v", err)
	case n == 0:
		return nil, nil
	case flags&(unix.MSG_TRUNC|unix.MSG_CTRUNC) != 0:
		return nil, fmt.Errorf("read plan: it is too long")
	}
	p, err := decodePlan(text[:n])
	if err != nil {
		return nil, err
	}
	messages, err := unix.ParseSocketControlMessage(rights[:oobn])
	if err != nil {
		return nil, fmt.Errorf("read files of plan: %v", err)
	}
	for _, m := range messages {
		fds, err := unix.ParseUnixRights(&m)
		if err != nil {
			return nil, fmt.Errorf("read files of plan: %v", err)
		}
		p.fds = append(p.fds, fds...)
	}
	if len(p.fds) != firstAt+len(p.Files) {
		return nil, fmt.Errorf("read files of plan: %d came, %d are in it", len(p.fds), firstAt+len(p.Files))
	}
	return p, nil
}

func decodePlan(b []byte) (*plan, error) {
	p := new(plan)
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(p); err != nil {
		return nil, fmt.Errorf("decode plan: %v", err)
	}
	return p, nil
}
