package vsock

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// maxConnectLine bounds the line that a host connection begins with.
const maxConnectLine = 32

// greetTimeout bounds how long a host connection may take to send it.
const greetTimeout = 5 * time.Second

// accept takes connections of the host until l is closed.
func (m *mux) accept(l *net.UnixListener) {
	for {
		c, err := l.AcceptUnix()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			// Out of descriptors, most likely. There is no event for their return.
			time.Sleep(10 * time.Millisecond)
			continue
		}
		m.mu.Lock()
		if m.closed || len(m.streams)+len(m.greeting) >= maxStreams {
			m.mu.Unlock()
			c.Close()
			continue
		}
		m.greeting[c] = struct{}{}
		m.wg.Go(func() { m.greet(c) })
		m.mu.Unlock()
	}
}

// greet reads the CONNECT line and asks the guest.
func (m *mux) greet(c *net.UnixConn) {
	port, rest, err := readConnect(c)
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.greeting, c)
	if err != nil || m.closed {
		c.Close()
		return
	}
	s := &stream{conn: c, key: key{guest: port}, pending: rest}
	for {
		s.host = m.nextPort
		if m.nextPort++; m.nextPort >= 1<<31 {
			m.nextPort = firstPort
		}
		if m.streams[s.key] == nil {
			break
		}
	}
	if !m.addLocked(s) {
		c.Close()
		return
	}
	s.after(connectTimeout, func() { m.kill(s) })
	m.askLocked(s, wantRequest)
}

// readConnect reads "CONNECT <port>\n" and returns what came behind it, too.
func readConnect(c *net.UnixConn) (port uint32, rest []byte, err error) {
	if err := c.SetReadDeadline(time.Now().Add(greetTimeout)); err != nil {
		return 0, nil, err
	}
	buf := make([]byte, 0, readSize)
	for {
		n, err := c.Read(buf[len(buf):cap(buf)])
		if err != nil {
			return 0, nil, err
		}
		buf = buf[:len(buf)+n]
		line, rest, found := bytes.Cut(buf, []byte("\n"))
		if len(line) >= maxConnectLine {
			return 0, nil, errors.New("line is too long")
		}
		if found {
			port, err := parseConnect(string(line))
			return port, rest, errors.Join(err, c.SetReadDeadline(time.Time{}))
		}
	}
}

// parseConnect returns the port of a CONNECT line.
func parseConnect(line string) (uint32, error) {
	word, num, _ := bytes.Cut([]byte(line), []byte(" "))
	if !bytes.EqualFold(word, []byte("connect")) {
		return 0, fmt.Errorf("line begins with %q", word)
	}
	port, err := strconv.ParseUint(string(num), 10, 32)
	return uint32(port), err
}

// dial connects a request of the guest to the socket of its port. A unix socket takes a
// connection at once or not at all, so the tx goroutine can do that.
func (m *mux) dial(k key, h *header) {
	c, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: fmt.Sprintf("%s_%d", m.path, k.host), Net: "unix"})
	m.mu.Lock()
	defer m.mu.Unlock()
	if err != nil {
		m.refuseLocked(k)
		return
	}
	s := &stream{conn: c, key: k, state: open}
	s.noteCredit(h)
	if !m.addLocked(s) {
		c.Close()
		m.refuseLocked(k)
		return
	}
	m.askLocked(s, wantResponse)
	m.wg.Go(func() { m.read(s) })
}

// read brings what the host sends to the stream, one buffer after the other.
func (m *mux) read(s *stream) {
	m.mu.Lock()
	first := len(s.pending) > 0 // came with the CONNECT line
	m.offerLocked(s)
	m.mu.Unlock()
	if first {
		<-s.taken
	}
	buf := make([]byte, readSize)
	for {
		n, err := s.conn.Read(buf)
		m.mu.Lock()
		if s.state != open {
			m.mu.Unlock()
			return
		}
		if n > 0 {
			s.pending = buf[:n]
			m.offerLocked(s)
			m.mu.Unlock()
			<-s.taken
			continue
		}
		m.hostEndLocked(s, err)
		m.mu.Unlock()
		return
	}
}

// hostEndLocked begins the end of a stream whose host connection has ended.
func (m *mux) hostEndLocked(s *stream, err error) {
	if !errors.Is(err, io.EOF) {
		m.killLocked(s)
		return
	}
	s.state = closing
	m.askLocked(s, wantShutdown)
	s.after(closeTimeout, func() { m.kill(s) })
}

// writeNow writes as much of segs as fits without waiting.
func writeNow(c *net.UnixConn, segs [][]byte) (int, error) {
	rc, err := c.SyscallConn()
	if err != nil {
		return 0, err
	}
	total := 0
	var werr error
	err = rc.Write(func(fd uintptr) bool {
		for _, s := range segs {
			n, err := unix.SendmsgN(int(fd), s, nil, nil, unix.MSG_NOSIGNAL|unix.MSG_DONTWAIT)
			if err == unix.EINTR {
				n, err = unix.SendmsgN(int(fd), s, nil, nil, unix.MSG_NOSIGNAL|unix.MSG_DONTWAIT)
			}
			if err != nil {
				if err != unix.EAGAIN {
					werr = err
				}
				break
			}
			total += n
			if n < len(s) {
				break
			}
		}
		return true
	})
	return total, errors.Join(err, werr)
}
