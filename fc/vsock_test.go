package fc_test

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"banger/fc"
)

// muxer listens as a VMM's vsock socket does and serves each connection with serve.
func muxer(t *testing.T, serve func(net.Conn, string)) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "v.sock")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				line, _ := bufio.NewReaderSize(conn, 16).ReadString('\n')
				serve(conn, line)
			}()
		}
	}()
	return path
}

func TestDialVsockReadsNothingOfTheGuest(t *testing.T) {
	path := muxer(t, func(c net.Conn, line string) {
		if line != "CONNECT 1025\n" {
			t.Errorf("request is %q", line)
		}
		// The guest's first bytes come in the same write as the VMM's answer.
		io.WriteString(c, "OK 1073741824\nhello from the guest")
	})
	conn, err := fc.DialVsock(t.Context(), path, 1025)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	// Read by a duplicate of the descriptor, as another process would.
	file, err := conn.File()
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	got, err := io.ReadAll(file)
	if err != nil || string(got) != "hello from the guest" {
		t.Errorf("read %q, %v", got, err)
	}
}

func TestDialVsockErrors(t *testing.T) {
	tests := []struct {
		name, answer string
		refused      bool
	}{
		{"closed without a word", "", true},
		{"cut off", "OK 10", true},
		{"other words", "NO 10\n", false},
		{"no number", "OK ten\n", false},
		{"number of more than 32 bits", "OK 4294967296\n", false},
		{"no end of line", strings.Repeat("O", 1000), false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			path := muxer(t, func(c net.Conn, _ string) { io.WriteString(c, tt.answer) })
			conn, err := fc.DialVsock(t.Context(), path, 7)
			if err == nil {
				conn.Close()
				t.Fatal("no error")
			}
			if errors.Is(err, fc.ErrRefused) != tt.refused {
				t.Errorf("error is %v", err)
			}
		})
	}
}

func TestDialVsockEndsWithItsContext(t *testing.T) {
	path := muxer(t, func(c net.Conn, _ string) { io.Copy(io.Discard, c) })
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Millisecond)
	defer cancel()
	if _, err := fc.DialVsock(ctx, path, 7); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error is %v", err)
	}
}
