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

// RecvFiles receives exactly n descriptors from a message of one byte. It
// closes what it received when that is not what was expected. The caller
// closes the files.
func RecvFiles(conn *net.UnixConn, n int) ([]*os.File, error) {
	buf, oob := make([]byte, 1), make([]byte, unix.CmsgSpace(4*8))
	got, oobn, flags, _, err := conn.ReadMsgUnix(buf, oob)
	if err != nil {
		return nil, err
	}
	var files []*os.File
	msgs, err := unix.ParseSocketControlMessage(oob[:oobn])
	for _, m := range msgs {
		fds, ferr := unix.ParseUnixRights(&m)
		if ferr != nil {
			err = ferr
			continue
		}
		for _, fd := range fds {
			unix.CloseOnExec(fd)
			files = append(files, os.NewFile(uintptr(fd), "received"))
		}
	}
	if err == nil && (got != 1 || flags&unix.MSG_CTRUNC != 0 || len(files) != n) {
		err = fmt.Errorf("got %d descriptors, want %d", len(files), n)
	}
	if err != nil {
		for _, f := range files {
			f.Close()
		}
		return nil, err
	}
	return files, nil
}
