package vsock

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"

	"golang.org/x/sys/unix"
)

// Requests of the vhost-user protocol that this device answers.
const (
	getFeatures         = 1
	setFeatures         = 2
	setOwner            = 3
	resetOwner          = 4
	setMemTable         = 5
	setVringNum         = 8
	setVringAddr        = 9
	setVringBase        = 10
	getVringBase        = 11
	setVringKick        = 12
	setVringCall        = 13
	setVringErr         = 14
	getProtocolFeatures = 15
	setProtocolFeatures = 16
	getQueueNum         = 17
	setVringEnable      = 18
	getConfig           = 24
	setConfig           = 25
)

// A message is a header of three 32-bit words, request, flags and payload size, and the
// payload; descriptors come beside its first byte.
const (
	messageHeader = 12
	maxMessage    = 4096
	flagVersion   = 1
	flagReply     = 1 << 2
	flagNeedReply = 1 << 3
)

// message is a request of QEMU.
type message struct {
	request   uint32
	needReply bool
	payload   []byte
	files     []*os.File
}

// close closes the files that nobody has taken.
func (m *message) close() {
	for _, f := range m.files {
		if f != nil {
			f.Close()
		}
	}
	m.files = nil
}

// takeFile returns the file at index i, which is the caller's then, or nil.
func (m *message) takeFile(i int) *os.File {
	if i >= len(m.files) {
		return nil
	}
	f := m.files[i]
	m.files[i] = nil
	return f
}

// readMessage reads one message. At the end of the connection it returns io.EOF.
func readMessage(c *net.UnixConn) (_ *message, err error) {
	var head [messageHeader]byte
	m := new(message)
	defer func() {
		if err != nil {
			m.close()
		}
	}()
	// One more than allowed, so that too many are noticed and not just cut off.
	oob := make([]byte, unix.CmsgSpace(4*(maxRegions+1)))
	n, oobn, flags, _, err := c.ReadMsgUnix(head[:], oob)
	if err != nil || n == 0 {
		if err == nil || errors.Is(err, net.ErrClosed) || errors.Is(err, unix.ECONNRESET) {
			err = io.EOF
		}
		return nil, err
	}
	if m.files, err = parseFiles(oob[:oobn]); err != nil {
		return nil, err
	}
	if flags&unix.MSG_CTRUNC != 0 || len(m.files) > maxRegions {
		return nil, fmt.Errorf("message with more than %d descriptors", maxRegions)
	}
	if _, err := io.ReadFull(c, head[n:]); err != nil {
		return nil, fmt.Errorf("read message header: %w", err)
	}
	size, err := m.decodeHead(head[:])
	if err != nil {
		return nil, err
	}
	m.payload = make([]byte, size)
	if _, err := io.ReadFull(c, m.payload); err != nil {
		return nil, fmt.Errorf("read message %d: %w", m.request, err)
	}
	return m, nil
}

// decodeHead sets the request and returns the size of the payload to follow.
func (m *message) decodeHead(b []byte) (int, error) {
	le := binary.LittleEndian
	flags, size := le.Uint32(b[4:]), le.Uint32(b[8:])
	if flags&3 != flagVersion || flags&flagReply != 0 {
		return 0, fmt.Errorf("message with flags %#x", flags)
	}
	if size > maxMessage {
		return 0, fmt.Errorf("message of %d bytes", size)
	}
	m.request, m.needReply = le.Uint32(b), flags&flagNeedReply != 0
	return int(size), nil
}

// parseFiles takes the descriptors out of control messages.
func parseFiles(oob []byte) ([]*os.File, error) {
	if len(oob) == 0 {
		return nil, nil
	}
	msgs, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil, fmt.Errorf("parse control message: %v", err)
	}
	var files []*os.File
	for _, m := range msgs {
		fds, err := unix.ParseUnixRights(&m)
		if err != nil {
			continue // credentials, say
		}
		for _, fd := range fds {
			unix.CloseOnExec(fd)
			// An eventfd is then waited for by the runtime's poller; memory does not mind.
			_ = unix.SetNonblock(fd, true)
			files = append(files, os.NewFile(uintptr(fd), "vhost-user"))
		}
	}
	return files, nil
}

// reply answers m with payload.
func (m *message) reply(c *net.UnixConn, payload []byte) error {
	b := make([]byte, messageHeader, messageHeader+len(payload))
	binary.LittleEndian.PutUint32(b, m.request)
	binary.LittleEndian.PutUint32(b[4:], flagVersion|flagReply)
	binary.LittleEndian.PutUint32(b[8:], uint32(len(payload)))
	if _, err := c.Write(append(b, payload...)); err != nil {
		return fmt.Errorf("answer message %d: %w", m.request, err)
	}
	return nil
}

// uint64 returns the payload of a message that holds one number.
func (m *message) uint64() (uint64, error) {
	if len(m.payload) != 8 {
		return 0, fmt.Errorf("message %d with %d bytes", m.request, len(m.payload))
	}
	return binary.LittleEndian.Uint64(m.payload), nil
}

// state returns the payload of a message about a ring: its index and a number.
func (m *message) state() (index, num uint32, err error) {
	v, err := m.uint64()
	return uint32(v), uint32(v >> 32), err
}
