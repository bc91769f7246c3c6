package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"banger/ops"
)

// What an answer can be besides one of the codes of package ops.
const (
	accepted = "accepted"
	hungUp   = "hung-up" // the connection is closed, without a word
	silent   = "silent"  // no answer came in time
	unsent   = "unsent"  // the kernel does not take the message
)

// patience is how long an answer may take.
const patience = 10 * time.Second

// wire says to the helper whatever it is told to say.
type wire struct {
	socket string
	conn   *net.UnixConn
}

// answer is what the helper said to that. The receiver of files closes them.
type answer struct {
	code  string // an ops.Code, or one of the above
	text  string
	files []*os.File
}

// say sends a message with descriptors, and returns the answer.
func (w *wire) say(message []byte, fds ...int) (answer, error) {
	if w.conn == nil {
		conn, err := net.DialUnix("unixpacket", nil, &net.UnixAddr{Name: w.socket, Net: "unixpacket"})
		if err != nil {
			return answer{}, err
		}
		w.conn = conn
	}
	w.conn.SetDeadline(time.Now().Add(patience))
	var oob []byte
	if len(fds) > 0 {
		oob = unix.UnixRights(fds...)
	}
	_, _, err := w.conn.WriteMsgUnix(message, oob, nil)
	if errors.Is(err, unix.EMSGSIZE) {
		return answer{code: unsent}, nil
	}
	var a answer
	if err == nil {
		a, err = w.hear()
	}
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		a = answer{code: silent}
	case err != nil:
		a = answer{code: hungUp}
	default:
		return a, nil
	}
	w.close()
	return a, nil
}

func (w *wire) hear() (answer, error) {
	data, oob := make([]byte, ops.MaxReply+1), make([]byte, unix.CmsgSpace(4*(ops.MaxFilesOut+1)))
	n, oobn, _, _, err := w.conn.ReadMsgUnix(data, oob)
	if err != nil {
		return answer{}, err
	}
	if n == 0 {
		return answer{}, net.ErrClosed
	}
	var reply struct {
		OK  json.RawMessage
		Err *ops.Error
	}
	a := answer{code: accepted, text: string(data[:n])}
	if err := json.Unmarshal(data[:n], &reply); err != nil {
		return a, fmt.Errorf("answer %q: %w", data[:n], err)
	}
	if reply.Err != nil {
		a.code, a.text = string(reply.Err.Code), reply.Err.Message
	}
	messages, err := unix.ParseSocketControlMessage(oob[:oobn])
	for _, m := range messages {
		fds, _ := unix.ParseUnixRights(&m)
		for _, fd := range fds {
			a.files = append(a.files, os.NewFile(uintptr(fd), "answer"))
		}
	}
	return a, err
}

func (w *wire) close() {
	if w.conn != nil {
		w.conn.Close()
		w.conn = nil
	}
}

// fdsOf returns the descriptors of files.
func fdsOf(files []*os.File) []int {
	fds := make([]int, len(files))
	for i, f := range files {
		fds[i] = int(f.Fd())
	}
	return fds
}

func closeAll(files []*os.File) {
	for _, f := range files {
		f.Close()
	}
}
