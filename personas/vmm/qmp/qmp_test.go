package qmp_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"banger/personas/vmm/qmp"

	"golang.org/x/sys/unix"
)

// pair returns both ends of a unix stream.
func pair(t testing.TB) (ours, theirs *net.UnixConn) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	conns := make([]*net.UnixConn, 2)
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "")
		c, err := net.FileConn(f)
		f.Close()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		conns[i] = c.(*net.UnixConn)
	}
	return conns[0], conns[1]
}

// qemu greets and answers each command on conn with what reply makes of it.
func qemu(conn *net.UnixConn, reply func(command string) string) {
	io.WriteString(conn, `{"QMP": {"version": {}, "capabilities": []}}`+"\r\n")
	in := bufio.NewReader(conn)
	for {
		line, err := in.ReadString('\n')
		if err != nil {
			return
		}
		var c struct{ Execute string }
		json.Unmarshal([]byte(line), &c)
		answer := `{"return": {}}`
		if c.Execute != "qmp_capabilities" {
			answer = reply(c.Execute)
		}
		if _, err := io.WriteString(conn, answer+"\r\n"); err != nil {
			return
		}
	}
}

func TestCommandsAnswersAndEvents(t *testing.T) {
	ours, theirs := pair(t)
	go qemu(theirs, func(command string) string {
		switch command {
		case "query-status":
			return `{"event": "RESUME", "data": {}}` + "\r\n" + `{"return": {"status": "running", "pad": "` + strings.Repeat("x", 20000) + `"}}`
		case "blockdev-del":
			return `{"error": {"class": "GenericError", "desc": "in use"}}`
		}
		return `{"return": {}}`
	})
	var events []string
	c := qmp.New(ours, func(e qmp.Event) { events = append(events, e.Name) })
	defer c.Close()
	if err := c.Execute(t.Context(), "stop", nil, nil); !errors.Is(err, qmp.ErrClosed) {
		t.Errorf("before the handshake: %v", err)
	}
	if err := c.Handshake(t.Context()); err != nil {
		t.Fatal(err)
	}
	var status struct{ Status string }
	if err := c.Execute(t.Context(), "query-status", nil, &status); err != nil || status.Status != "running" {
		t.Errorf("status %q, %v", status.Status, err)
	}
	if len(events) != 1 || events[0] != "RESUME" {
		t.Errorf("events %q", events)
	}
	var refused *qmp.Error
	if err := c.Execute(t.Context(), "blockdev-del", map[string]string{"node-name": "x"}, nil); !errors.As(err, &refused) || refused.Desc != "in use" {
		t.Errorf("refusal is %v", err)
	}
	if err := c.Execute(t.Context(), "cont", nil, nil); err != nil {
		t.Errorf("after a refusal: %v", err)
	}
}

func TestFilesAreSentAlong(t *testing.T) {
	ours, theirs := pair(t)
	got := make(chan int, 1)
	go func() {
		io.WriteString(theirs, `{"QMP":{}}`+"\n")
		buf, oob := make([]byte, 4096), make([]byte, 256)
		theirs.Read(buf)
		io.WriteString(theirs, `{"return":{}}`+"\n")
		_, n, _, _, _ := theirs.ReadMsgUnix(buf, oob)
		messages, _ := unix.ParseSocketControlMessage(oob[:n])
		for _, m := range messages {
			fds, _ := unix.ParseUnixRights(&m)
			for _, fd := range fds {
				unix.Close(fd)
			}
			got <- len(fds)
		}
		io.WriteString(theirs, `{"return":{"fdset-id":1,"fd":9}}`+"\n")
	}()
	c := qmp.New(ours, nil)
	defer c.Close()
	if err := c.Handshake(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := c.ExecuteWithFile(t.Context(), "add-fd", map[string]int{"fdset-id": 1}, nil, os.Stdin); err != nil {
		t.Fatal(err)
	}
	if n := <-got; n != 1 {
		t.Errorf("%d descriptors came", n)
	}
}

func TestEndOfQEMUEndsTheWait(t *testing.T) {
	ours, theirs := pair(t)
	c := qmp.New(ours, nil)
	defer c.Close()
	go func() {
		io.WriteString(theirs, `{"QMP":{}}`+"\n")
		theirs.Read(make([]byte, 100))
		theirs.Close()
	}()
	if err := c.Handshake(t.Context()); !errors.Is(err, qmp.ErrClosed) {
		t.Errorf("error is %v", err)
	}
	<-c.Done()
}

func TestCancelEndsTheConversation(t *testing.T) {
	ours, theirs := pair(t)
	c := qmp.New(ours, nil)
	defer c.Close()
	block := make(chan struct{})
	go qemu(theirs, func(string) string { <-block; return `{"return":{}}` })
	if err := c.Handshake(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if err := c.Execute(ctx, "stop", nil, nil); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error is %v", err)
	}
	close(block)
	// The late answer must not be taken for that of the next command.
	if err := c.Execute(t.Context(), "cont", nil, nil); !errors.Is(err, qmp.ErrClosed) {
		t.Errorf("error after a lost answer is %v", err)
	}
}

func TestMisbehavingQEMUIsLeft(t *testing.T) {
	for name, raw := range map[string]string{
		"endless line":       strings.Repeat("x", 1<<20),
		"no JSON":            "hello\n",
		"answers unasked":    `{"return":{}}` + "\n" + `{"return":{}}` + "\n" + `{"return":{}}` + "\n",
		"no greeting":        `{"return":{}}` + "\n",
		"greeting of a list": "[]\n",
	} {
		t.Run(name, func(t *testing.T) {
			ours, theirs := pair(t)
			c := qmp.New(ours, nil)
			go io.WriteString(theirs, raw)
			if err := c.Handshake(t.Context()); err == nil {
				t.Error("no error")
			}
			<-c.Done()
			c.Close()
		})
	}
}

// FuzzConn feeds any bytes as QEMU's: the conversation must end by itself with them, and
// must never hand out an event without a name.
func FuzzConn(f *testing.F) {
	f.Add([]byte(`{"QMP":{}}` + "\r\n" + `{"return":{}}` + "\r\n" + `{"event":"STOP","data":{}}` + "\r\n" + `{"return":{"a":1}}` + "\r\n"))
	f.Add([]byte(`{"QMP":{}}` + "\n" + `{"error":{"class":"GenericError","desc":"no"}}` + "\n"))
	f.Add(fmt.Appendf(nil, `{"QMP":{"x":%q}}`, strings.Repeat("y", 9000)))
	f.Fuzz(func(t *testing.T, raw []byte) {
		ours, theirs := pair(t)
		c := qmp.New(ours, func(e qmp.Event) {
			if e.Name == "" {
				t.Error("event without a name")
			}
		})
		defer c.Close()
		go io.Copy(io.Discard, theirs)
		go func() {
			theirs.Write(raw)
			theirs.CloseWrite()
		}()
		if c.Handshake(t.Context()) == nil {
			var out map[string]any
			c.Execute(t.Context(), "query-status", nil, &out)
		}
		<-c.Done()
	})
}
