package dm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// control is the device mapper's control device, through which everything is
// asked for: struct dm_ioctl of linux/dm-ioctl.h, with what belongs to it behind it.
type control struct{ *os.File }

// controlPath leads the kernel to load dm-mod, where it is a module and the node
// is there.
const controlPath = "/dev/mapper/control"

func openControl() (*control, error) {
	f, err := os.OpenFile(controlPath, os.O_RDWR, 0)
	if err != nil {
		return nil, fmt.Errorf("open device mapper: %w", err)
	}
	return &control{f}, nil
}

// lock keeps all others of banger's from making devices until the control device
// is closed, which a process that is killed does too.
func (c *control) lock(ctx context.Context) error {
	for {
		err := unix.Flock(int(c.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) {
			return err
		}
		if err := pause(ctx); err != nil {
			return fmt.Errorf("wait for device mapper: %w", err)
		}
	}
}

// pause waits between two looks at what tells nobody of its change.
func pause(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(2 * time.Millisecond):
		return nil
	}
}

// request is one ioctl.
type request struct {
	command uint
	what    string // for errors
	name    string
	uuid    string
	flags   uint32
	targets uint32
	payload []byte
}

// answerBytes is room for what the kernel answers: the names of some thousand
// devices.
const answerBytes = 256 << 10

// errTooMuch is an answer that does not fit.
var errTooMuch = errors.New("the kernel's answer is too long")

// do asks the kernel. What it answers behind the header is returned as it is.
func (c *control) do(r request) (*unix.DmIoctl, []byte, error) {
	answer := 0
	switch r.command {
	case unix.DM_TABLE_STATUS, unix.DM_LIST_DEVICES, unix.DM_GET_TARGET_VERSION:
		answer = answerBytes
	}
	size := unix.SizeofDmIoctl + max(len(r.payload), answer)
	words := make([]uint64, (size+7)/8) // aligned as the header is
	buf := unsafe.Slice((*byte)(unsafe.Pointer(&words[0])), size)
	head := (*unix.DmIoctl)(unsafe.Pointer(&words[0]))
	// The oldest version of the interface: newer ones only add to it.
	head.Version = [3]uint32{4, 0, 0}
	head.Data_size, head.Data_start = uint32(size), unix.SizeofDmIoctl
	head.Target_count, head.Flags = r.targets, r.flags
	if len(r.name) >= len(head.Name) || len(r.uuid) >= len(head.Uuid) {
		return nil, nil, fmt.Errorf("%s: the name is too long", r.what)
	}
	copy(head.Name[:], r.name)
	copy(head.Uuid[:], r.uuid)
	copy(buf[unix.SizeofDmIoctl:], r.payload)
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, c.Fd(), uintptr(r.command), uintptr(unsafe.Pointer(&words[0])))
	switch {
	case errno != 0:
		return nil, nil, fmt.Errorf("%s: %w", r.what, errno)
	case head.Flags&unix.DM_BUFFER_FULL_FLAG != 0:
		return nil, nil, fmt.Errorf("%s: %w", r.what, errTooMuch)
	}
	start, end := int(head.Data_start), int(head.Data_size)
	if start > end || end > size {
		return head, nil, nil
	}
	return head, buf[start:end], nil
}

// target is one line of a table.
type target struct {
	start, sectors uint64
	kind           string
	params         string
}

// encode puts the lines of a table together: each is a struct dm_target_spec,
// its parameters, a zero, and what is missing to a multiple of eight.
func encode(table []target) []byte {
	var out []byte
	for _, t := range table {
		next := (unix.SizeofDmTargetSpec + len(t.params) + 1 + 7) &^ 7
		line := make([]byte, next)
		spec := unix.DmTargetSpec{Sector_start: t.start, Length: t.sectors, Next: uint32(next)}
		copy(spec.Target_type[:], t.kind)
		copy(line, (*[unix.SizeofDmTargetSpec]byte)(unsafe.Pointer(&spec))[:])
		copy(line[unix.SizeofDmTargetSpec:], t.params)
		out = append(out, line...)
	}
	return out
}

// decode takes a table, or the status of one, apart.
func decode(data []byte, count uint32) ([]target, error) {
	var table []target
	for at := 0; len(table) < int(count); {
		if at+unix.SizeofDmTargetSpec > len(data) {
			return nil, errors.New("read table: it is cut short")
		}
		var spec unix.DmTargetSpec
		copy((*[unix.SizeofDmTargetSpec]byte)(unsafe.Pointer(&spec))[:], data[at:])
		params, _, ok := bytes.Cut(data[at+unix.SizeofDmTargetSpec:], []byte{0})
		kind, _, _ := bytes.Cut(spec.Target_type[:], []byte{0})
		if !ok || int(spec.Next) < at+unix.SizeofDmTargetSpec {
			return nil, errors.New("read table: it is cut short")
		}
		table = append(table, target{spec.Sector_start, spec.Length, string(kind), string(params)})
		at = int(spec.Next) // from the beginning, other than in what is sent
	}
	return table, nil
}
