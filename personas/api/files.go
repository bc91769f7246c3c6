package api

import (
	"fmt"
	"net"
	"os"

	"golang.org/x/sys/unix"
)

// SendFiles sends files in one message of one byte. They stay the caller's.
func SendFiles(conn *net.UnixConn, files ...*os.File) error {
	fds := make([]int, len(files))
	for i, f := range files {
		fds[i] = int(f.Fd())
	}
	_, _, err := conn.WriteMsgUnix([]byte{0}, unix.UnixRights(fds...), nil)
	return err
}

// RecvFiles receives a descriptor for each of names, from a message of one byte.
// The names are what errors call the files. It closes what it received when that
// is not what was expected. The caller closes the files.
func RecvFiles(conn *net.UnixConn, names ...string) ([]*os.File, error) {
	buf, oob := make([]byte, 1), make([]byte, unix.CmsgSpace(4*8))
	got, oobn, flags, _, err := conn.ReadMsgUnix(buf, oob)
	if err != nil {
		return nil, err
	}
	var fds []int
	msgs, err := unix.ParseSocketControlMessage(oob[:oobn])
	for _, m := range msgs {
		some, ferr := unix.ParseUnixRights(&m)
		if ferr != nil {
			err = ferr
			continue
		}
		fds = append(fds, some...)
	}
	if err == nil && (got != 1 || flags&unix.MSG_CTRUNC != 0 || len(fds) != len(names)) {
		err = fmt.Errorf("got %d descriptors, want %d", len(fds), len(names))
	}
	if err != nil {
		for _, fd := range fds {
			unix.Close(fd)
		}
		return nil, err
	}
	files := make([]*os.File, len(fds))
	for i, fd := range fds {
		unix.CloseOnExec(fd)
		files[i] = os.NewFile(uintptr(fd), names[i])
	}
	return files, nil
}
