package ops

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"reflect"
	"strings"

	"golang.org/x/sys/unix"
)

// request is the envelope of a request.
type request struct {
	V    int             `json:"v"`
	ID   string          `json:"id"`
	Op   string          `json:"op"`
	Args json.RawMessage `json:"args"`
}

// maxID bounds a request id, in bytes.
const maxID = 64

func (r *request) check() error {
	if r.ID == "" || len(r.ID) > maxID {
		return fmt.Errorf("request id: want 1 to %d bytes", maxID)
	}
	if r.ID == "-" { // says that there is none, and would be the same for everybody
		return errors.New("request id: want one of this request's own")
	}
	for _, c := range []byte(r.ID) {
		if c <= ' ' || c >= 0x7f {
			return errors.New("request id: want printable ASCII")
		}
	}
	return nil
}

// reply is the envelope of a reply; exactly one of OK and Err is there.
type reply struct {
	V   int             `json:"v"`
	OK  json.RawMessage `json:"ok,omitempty"`
	Err *Error          `json:"err,omitempty"`
}

// decodeStrict decodes one JSON object into the struct that v points to. It
// refuses what encoding/json forgives: unknown, repeated and case-folded keys,
// anything after the object, and values nested deeper than the envelope needs.
func decodeStrict(data []byte, v any) error {
	keys, err := topLevelKeys(data)
	if err != nil {
		return err
	}
	known := make(map[string]bool)
	t := reflect.TypeOf(v).Elem()
	for i := range t.NumField() {
		name, _, _ := strings.Cut(t.Field(i).Tag.Get("json"), ",")
		known[name] = true
	}
	for _, k := range keys {
		if !known[k] {
			return fmt.Errorf("unknown key %q", k)
		}
	}
	if err := json.Unmarshal(data, v); err != nil {
		return errors.New("wrong type of a value")
	}
	return nil
}

// topLevelKeys reads the whole of data and returns the keys of its outermost
// object. Keys may repeat in no object, and objects may nest twice at most.
func topLevelKeys(data []byte) ([]string, error) {
	const maxDepth = 2
	d := json.NewDecoder(bytes.NewReader(data))
	d.UseNumber()
	var top []string
	var seen []map[string]bool // one per open object
	key := false               // the next string is a key
	for {
		tok, err := d.Token()
		if errors.Is(err, io.EOF) && len(seen) == 0 && top != nil {
			return top, nil
		}
		if err != nil {
			return nil, errors.New("not a JSON object")
		}
		if len(seen) == 0 && (top != nil || tok != json.Delim('{')) {
			return nil, errors.New("not one JSON object")
		}
		switch tok := tok.(type) {
		case json.Delim:
			switch tok {
			case '{':
				if len(seen) == maxDepth {
					return nil, errors.New("nested too deeply")
				}
				if top == nil {
					top = []string{}
				}
				seen = append(seen, map[string]bool{})
				key = true
				continue
			case '}':
				seen = seen[:len(seen)-1]
			default:
				return nil, errors.New("arrays are not part of the protocol")
			}
		case string:
			if key {
				open := seen[len(seen)-1]
				if open[tok] {
					return nil, fmt.Errorf("repeated key %q", tok)
				}
				open[tok] = true
				if len(seen) == 1 {
					top = append(top, tok)
				}
				key = false
				continue
			}
		}
		key = true
	}
}

// send writes one message with its descriptors, which stay the caller's.
func send(conn *net.UnixConn, v any, files []*os.File, limit int) error {
	data, err := json.Marshal(v)
	if err != nil {
		return err
	}
	if len(data) > limit {
		return fmt.Errorf("message of %d bytes: want at most %d", len(data), limit)
	}
	var oob []byte
	if len(files) > 0 {
		fds := make([]int, len(files))
		for i, f := range files {
			fds[i] = int(f.Fd())
		}
		oob = unix.UnixRights(fds...)
	}
	_, _, err = conn.WriteMsgUnix(data, oob, nil)
	return err
}

// noFiles is the maxFiles of who cannot even close any: there is no room for them, so
// that the kernel lets go of them, without a word to who has them.
const noFiles = -1

// errFiles is a message with more descriptors than are wanted.
var errFiles = errors.New("more descriptors than are wanted")

// receive reads one message of at most limit bytes and maxFiles descriptors.
// The caller closes the descriptors, also when there is an error. An orderly end is
// io.EOF.
//
// They are numbers, for [os.NewFile] gives one that does not block to the runtime's
// poller, which asks the file: on FUSE that is its server, and while he is silent no
// goroutine of the process goes on.
func receive(conn *net.UnixConn, limit, maxFiles int) (data []byte, fds []int, err error) {
	buf := make([]byte, limit+1)
	var oob []byte
	if maxFiles != noFiles {
		oob = make([]byte, unix.CmsgSpace(4*(maxFiles+1)))
	}
	n, oobn, flags, _, err := conn.ReadMsgUnix(buf, oob)
	if err != nil {
		return nil, nil, err
	}
	fds, err = rights(oob[:oobn])
	switch {
	case err != nil:
		return nil, fds, err
	case n == 0 && len(fds) == 0:
		return nil, fds, io.EOF
	case flags&unix.MSG_CTRUNC != 0 || len(fds) > max(maxFiles, 0):
		return nil, fds, errFiles
	case flags&unix.MSG_TRUNC != 0 || n > limit:
		return nil, fds, fmt.Errorf("message larger than %d bytes", limit)
	}
	return buf[:n], fds, nil
}

// rights takes the descriptors out of a control message. The caller closes them,
// also when there is an error.
func rights(oob []byte) (fds []int, err error) {
	msgs, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil, fmt.Errorf("parse control message: %w", err)
	}
	for i := range msgs {
		more, err := unix.ParseUnixRights(&msgs[i])
		if err != nil {
			return fds, fmt.Errorf("parse descriptors: %w", err)
		}
		fds = append(fds, more...)
	}
	return fds, nil
}

func closeFDs(fds []int) {
	for _, fd := range fds {
		unix.Close(fd)
	}
}

func closeAll(files []*os.File) {
	for _, f := range files {
		f.Close()
	}
}
