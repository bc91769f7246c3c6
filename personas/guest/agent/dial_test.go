package agent_test

import (
	"bytes"
	"crypto/rand"
	"errors"
	"io"
	"net"
	"testing"

	"banger/personas/guest/agent"
	"banger/personas/guest/link"
)

// listen returns a port of the loopback, whose first connection serve gets.
func listen(t *testing.T, address string, serve func(net.Conn)) uint16 {
	t.Helper()
	l, err := net.Listen("tcp", address)
	if err != nil {
		t.Skipf("needs %s: %v", address, err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		conn, err := l.Accept()
		if err == nil {
			serve(conn)
			conn.Close()
		}
	}()
	return uint16(l.Addr().(*net.TCPAddr).Port)
}

// Every byte arrives in both directions, also those just before the end.
func TestDial(t *testing.T) {
	const size = 4 << 20
	sent := make([]byte, size)
	rand.Read(sent)
	for name, address := range map[string]string{"IPv4": "127.0.0.1:0", "IPv6": "[::1]:0"} {
		t.Run(name, func(t *testing.T) {
			port := listen(t, address, func(conn net.Conn) {
				got := make([]byte, size)
				if _, err := io.ReadFull(conn, got); err != nil {
					t.Error(err)
				}
				if _, err := conn.Write(got); err != nil {
					t.Error(err)
				}
			})
			conn := dial(t, agent.Config{})
			if err := link.Dial(t.Context(), conn, port); err != nil {
				t.Fatal(err)
			}
			go conn.Write(sent)
			got, err := io.ReadAll(conn) // up to the server's end
			if err != nil || !bytes.Equal(got, sent) {
				t.Errorf("%d bytes came back of %d, %v", len(got), size, err)
			}
		})
	}
}

// The client's end is the server's, at once.
func TestDialEndsWithItsClient(t *testing.T) {
	ended := make(chan error, 1)
	port := listen(t, "127.0.0.1:0", func(conn net.Conn) {
		_, err := io.Copy(io.Discard, conn)
		ended <- err
	})
	conn := dial(t, agent.Config{})
	if err := link.Dial(t.Context(), conn, port); err != nil {
		t.Fatal(err)
	}
	conn.Close()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

func TestDialOfNobody(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := uint16(l.Addr().(*net.TCPAddr).Port)
	l.Close()
	if err := link.Dial(t.Context(), dial(t, agent.Config{}), port); !errors.Is(err, link.ErrRefused) {
		t.Errorf("got %v", err)
	}
	if err := link.Dial(t.Context(), dial(t, agent.Config{}), 0); err == nil || errors.Is(err, link.ErrRefused) {
		t.Errorf("port 0: %v", err)
	}
}
