package unit

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"

	"golang.org/x/sys/unix"

	"banger/fc/jail"
)

// wire is a jail.Spec between the two processes. Its files come as descriptors:
// log, kernel, initrd if there is one, disks, each with its origin if it has one.
type wire struct {
	Spec   jail.Spec
	Initrd bool
	Disks  []wireDisk
}

type wireDisk struct{ ReadOnly, Origin bool }

// answer is what the unit's process says in the end.
type answer struct {
	Jail  string `json:",omitempty"` // path of the jail's directory
	Error string `json:",omitempty"`
}

// send hands a jail over.
func send(conn *net.UnixConn, s *jail.Spec) error {
	w := wire{Spec: *s, Initrd: s.Initrd != nil}
	fds := []int{int(s.Log.Fd()), int(s.Kernel.Fd())}
	if s.Initrd != nil {
		fds = append(fds, int(s.Initrd.Fd()))
	}
	for _, d := range s.Disks {
		fds = append(fds, int(d.File.Fd()))
		if d.Origin != nil {
			fds = append(fds, int(d.Origin.Fd()))
		}
		w.Disks = append(w.Disks, wireDisk{d.ReadOnly, d.Origin != nil})
	}
	text, err := json.Marshal(w)
	if err != nil {
		return fmt.Errorf("hand over jail: %w", err)
	}
	if _, _, err := conn.WriteMsgUnix(text, unix.UnixRights(fds...), nil); err != nil {
		return fmt.Errorf("hand over jail: %w", err)
	}
	return nil
}

// Order is a jail to build, as the unit's process has it.
type Order struct {
	Spec *jail.Spec
	conn *net.UnixConn
}

// Take asks the helper whose socket is at path for the jail of the VM id.
func Take(ctx context.Context, path, id string) (*Order, error) {
	var d net.Dialer
	c, err := d.DialContext(ctx, "unixpacket", path)
	if err != nil {
		return nil, fmt.Errorf("ask helper for jail %s: %w", id, err)
	}
	conn := c.(*net.UnixConn)
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	spec, err := receive(conn, id)
	if err != nil {
		conn.Close()
		return nil, fmt.Errorf("ask helper for jail %s: %w", id, err)
	}
	return &Order{Spec: spec, conn: conn}, nil
}

func receive(conn *net.UnixConn, id string) (*jail.Spec, error) {
	if _, err := conn.Write([]byte(id)); err != nil {
		return nil, err
	}
	text, rights := make([]byte, maxMessage), make([]byte, unix.CmsgSpace(4*(2*jail.MaxDisks+3)))
	n, oobn, flags, _, err := conn.ReadMsgUnix(text, rights)
	if err != nil {
		return nil, err
	}
	files, err := descriptors(rights[:oobn])
	var spec *jail.Spec
	switch {
	case err != nil:
	case n == 0:
		err = errors.New("it expects no such VM")
	case flags&(unix.MSG_TRUNC|unix.MSG_CTRUNC) != 0:
		err = errors.New("read jail: it does not fit")
	default:
		spec, err = assemble(text[:n], files)
	}
	if err != nil {
		for _, f := range files {
			f.Close()
		}
	}
	return spec, err
}

// assemble puts the jail and its files together again.
func assemble(text []byte, files []*os.File) (*jail.Spec, error) {
	var w wire
	if err := decode(text, &w); err != nil {
		return nil, fmt.Errorf("read jail: %w", err)
	}
	want := 2 + len(w.Disks)
	if w.Initrd {
		want++
	}
	for _, d := range w.Disks {
		if d.Origin {
			want++
		}
	}
	if len(files) != want {
		return nil, fmt.Errorf("read jail: %d descriptors, want %d", len(files), want)
	}
	s := &w.Spec
	s.Log, s.Kernel, files = files[0], files[1], files[2:]
	if w.Initrd {
		s.Initrd, files = files[0], files[1:]
	}
	for _, d := range w.Disks {
		disk := jail.Disk{File: files[0], ReadOnly: d.ReadOnly}
		files = files[1:]
		if d.Origin {
			disk.Origin, files = files[0], files[1:]
		}
		s.Disks = append(s.Disks, disk)
	}
	return s, nil
}

// descriptors takes the descriptors out of a control message. The caller closes the
// files, also when there is an error.
func descriptors(rights []byte) ([]*os.File, error) {
	messages, err := unix.ParseSocketControlMessage(rights)
	if err != nil {
		return nil, fmt.Errorf("read descriptors: %w", err)
	}
	var files []*os.File
	for _, m := range messages {
		fds, err := unix.ParseUnixRights(&m)
		if err != nil {
			return files, fmt.Errorf("read descriptors: %w", err)
		}
		for _, fd := range fds {
			unix.CloseOnExec(fd)
			files = append(files, os.NewFile(uintptr(fd), fmt.Sprintf("descriptor %d", fd)))
		}
	}
	return files, nil
}

// Built tells the helper that the VMM runs in the jail at path.
func (o *Order) Built(path string) error { return o.say(answer{Jail: path}) }

// Failed tells the helper why there is no VMM.
func (o *Order) Failed(why error) error { return o.say(answer{Error: why.Error()}) }

func (o *Order) say(a answer) error {
	defer o.conn.Close()
	text, err := json.Marshal(a)
	if err != nil {
		return err
	}
	_, err = o.conn.Write(text[:min(len(text), maxMessage)])
	return err
}
