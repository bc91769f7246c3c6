// Vmm answers at once to whatever it is asked, and has a guest of make-believe. It
// knows no more of Firecracker's API than one request's end, and links next to
// nothing: its own start is counted as banger's.
package main

import (
	"bufio"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"

	"banger/personas/guest/link"
	"banger/personas/guest/link/frame"
)

// vsock is where banger has a VMM put the guest's connections.
const vsock = "/run/vmm/v.sock"

func main() {
	fs := flag.NewFlagSet("banger-vmm", flag.ExitOnError)
	sock := fs.String("api-sock", "", "")
	fs.String("id", "", "")
	fs.String("level", "", "")
	fs.Parse(os.Args[1:])
	fmt.Fprintln(os.Stderr, "quickvmm:", serve(*sock))
	os.Exit(1)
}

// serve answers on both sockets until the guest shuts down, or one of them fails.
func serve(sock string) error {
	api, err := net.Listen("unix", sock)
	if err != nil {
		return err
	}
	guest, err := net.Listen("unix", vsock)
	if err != nil {
		return err
	}
	failed := make(chan error, 2)
	go func() { failed <- accept(guest, connect) }()
	go func() { failed <- accept(api, talk) }()
	return <-failed
}

// accept gives each connection to what answers on it.
func accept(l net.Listener, answer func(net.Conn) error) error {
	for {
		conn, err := l.Accept()
		if err != nil {
			return err
		}
		go func() {
			defer conn.Close()
			complain(answer(conn))
		}()
	}
}

// complain tells on the console what went wrong.
func complain(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "quickvmm:", err)
	}
}

// talk says yes to every request of a connection to the API. The last one starts
// the guest.
func talk(conn net.Conn) error {
	in := bufio.NewReader(conn)
	for {
		request, err := in.ReadString('\n')
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		length := 0
		for line := request; line != "\r\n"; {
			if line, err = in.ReadString('\n'); err != nil {
				return err
			}
			if value, ok := strings.CutPrefix(line, "Content-Length: "); ok {
				if length, err = strconv.Atoi(strings.TrimSpace(value)); err != nil {
					return err
				}
			}
		}
		if _, err := in.Discard(length); err != nil {
			return err
		}
		if strings.HasPrefix(request, "PUT /actions ") {
			go func() { complain(hello()) }()
		}
		if _, err := io.WriteString(conn, "HTTP/1.1 204 No Content\r\n\r\n"); err != nil {
			return err
		}
	}
}

// hello is a guest that boots in no time.
func hello() error {
	conn, err := net.Dial("unix", fmt.Sprintf("%s_%d", vsock, link.HelloPort))
	if err != nil {
		return err
	}
	defer conn.Close()
	w := frame.NewWriter(conn)
	if err := w.JSON(frame.Hello, link.Hello{Version: "quickvmm", KernelRelease: "none", BootID: "none", UptimeNanos: 1}); err != nil {
		return err
	}
	var config link.BootConfig
	if err := frame.NewReader(conn).Expect(frame.Boot, &config); err != nil {
		return err
	}
	return w.JSON(frame.Ready, link.Ready{Init: "banger", UptimeNanos: 1})
}

// connect takes the one line that says which port is meant: there is but the agent.
func connect(conn net.Conn) error {
	for at := make([]byte, 1); at[0] != '\n'; {
		if _, err := conn.Read(at); err != nil {
			return err
		}
	}
	if _, err := io.WriteString(conn, "OK 1073741824\n"); err != nil {
		return err
	}
	return answer(conn)
}

// answer is the agent: every command succeeds at once, and a shutdown is the
// end of the VMM.
func answer(conn net.Conn) error {
	t, payload, err := frame.NewReader(conn).Next()
	if err != nil {
		return err
	}
	if t != frame.Request {
		return frame.Unexpected(t)
	}
	req, err := link.DecodeRequest(payload)
	if err != nil {
		return err
	}
	w := frame.NewWriter(conn)
	switch {
	case req.Exec != nil:
		if err := w.JSON(frame.Started, link.StartedReply{PID: 1}); err != nil {
			return err
		}
		return w.JSON(frame.Exit, link.ExitReply{})
	case req.Shutdown != nil:
		complain(w.JSON(frame.Answer, link.Nothing{}))
		os.Exit(0)
	}
	return w.Fail(fmt.Errorf("this guest only runs commands and shuts down"))
}
