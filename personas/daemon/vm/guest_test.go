package vm

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"banger/fc"
	"banger/fc/fctest"
	"banger/ops"
	"banger/personas/guest/link"
	"banger/personas/guest/link/frame"
)

// guest is a lease, and its VM where it runs.
type guest struct {
	lease  ops.Reservation
	dir    string
	cmd    *exec.Cmd
	pidfd  int
	vmm    *fctest.VMM
	cancel context.CancelFunc
	hello  *os.File
	serial *os.File
	sealed bool
}

// launch starts a process, an API and the sockets of a VM.
func (h *host) launch(g *guest) error {
	dir, err := os.MkdirTemp(h.dir, "run")
	if err != nil {
		return err
	}
	g.dir, g.pidfd, g.sealed = dir, -1, false
	g.cmd = &exec.Cmd{Path: "/proc/self/exe", Args: []string{"fake-vmm"}, SysProcAttr: &unix.SysProcAttr{PidFD: &g.pidfd}}
	if _, err := g.cmd.StdinPipe(); err != nil {
		return err
	}
	if err := g.cmd.Start(); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	g.cancel = cancel
	agent, err := net.Listen("unix", filepath.Join(dir, "v.sock"))
	if err != nil {
		return err
	}
	context.AfterFunc(ctx, func() { agent.Close() })
	h.tasks.Go(func() { h.serveAgent(g, agent) })
	apiSocket, err := net.Listen("unix", filepath.Join(dir, "api.sock"))
	if err != nil {
		return err
	}
	g.vmm = &fctest.VMM{ID: g.lease.ID, OnStart: func(context.Context, fc.VMConfig) error {
		if err := h.step("InstanceStart"); err != nil {
			return err
		}
		h.tasks.Go(func() { h.boot(ctx, g, dir) })
		return nil
	}}
	if h.manner == "mute" { // the kernel accepts, and nobody answers
		context.AfterFunc(ctx, func() { apiSocket.Close() })
	} else {
		h.tasks.Go(func() { g.vmm.Serve(ctx, apiSocket) })
	}
	if g.hello, err = listenFile(filepath.Join(dir, "v.sock_1024")); err != nil {
		return err
	}
	g.serial, err = os.OpenFile(filepath.Join(dir, "serial"), os.O_CREATE|os.O_RDWR|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	_, err = g.serial.WriteString("Linux version 6\nlast words\n")
	return err
}

func listenFile(path string) (*os.File, error) {
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, err
	}
	defer l.Close()
	l.SetUnlinkOnClose(false)
	return l.File()
}

func (h *host) handOut(g *guest) (ops.VMStartReply, []*os.File, error) {
	conn, err := net.Dial("unix", filepath.Join(g.dir, "api.sock"))
	if err != nil {
		return ops.VMStartReply{}, nil, err
	}
	defer conn.Close()
	apiFile, err := conn.(*net.UnixConn).File()
	if err != nil {
		return ops.VMStartReply{}, nil, err
	}
	run, err := unix.Open(g.dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return ops.VMStartReply{}, nil, err
	}
	return ops.VMStartReply{PID: g.cmd.Process.Pid, Tap: "tap0", MTU: 1400}, []*os.File{
		apiFile, dupFile(h.t, g.pidfd), dupFile(h.t, int(g.hello.Fd())), os.NewFile(uintptr(run), "run"), dupFile(h.t, int(g.serial.Fd())),
	}, nil
}

func dupFile(t testing.TB, fd int) *os.File {
	n, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		t.Errorf("duplicate: %v", err)
	}
	return os.NewFile(uintptr(n), "dup")
}

// boot is the guest's first process. It behaves as it was told to.
func (h *host) boot(ctx context.Context, g *guest, dir string) {
	h.mu.Lock()
	manner := h.manner
	h.mu.Unlock()
	switch manner {
	case "silent":
		return
	case "dead":
		g.cmd.Process.Kill()
		return
	}
	conn, err := net.Dial("unix", filepath.Join(dir, "v.sock_1024"))
	if err != nil {
		return
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	w, r := frame.NewWriter(conn), frame.NewReader(conn)
	if manner == "rude" {
		io.WriteString(conn, "GET / HTTP/1.0\r\n\r\n")
		return
	}
	w.JSON(frame.Hello, link.Hello{Version: "test"})
	var config link.BootConfig
	if err := r.Expect(frame.Boot, &config); err != nil {
		return
	}
	h.mu.Lock()
	if !g.sealed {
		h.t.Error("the guest goes on to what is the image's, and its VMM can still make files")
	}
	h.boots = append(h.boots, config)
	h.mu.Unlock()
	if manner == "broken" {
		w.Fail(errors.New("no root disk"))
		return
	}
	if h.step("Ready") == nil {
		w.JSON(frame.Ready, link.Ready{Init: "banger"})
	}
}

// serveAgent answers what is asked of the guest by way of Firecracker's socket.
func (h *host) serveAgent(g *guest, l net.Listener) {
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		h.tasks.Go(func() {
			defer conn.Close()
			conn.SetDeadline(time.Now().Add(10 * time.Second))
			line, err := bufio.NewReaderSize(conn, 16).ReadString('\n')
			if err != nil || line != "CONNECT 1025\n" {
				return
			}
			io.WriteString(conn, "OK 1\n")
			t, payload, err := frame.NewReader(conn).Next()
			if err != nil || t != frame.Request {
				return
			}
			var req link.Request
			if json.Unmarshal(payload, &req) != nil || req.Shutdown == nil {
				return
			}
			frame.NewWriter(conn).JSON(frame.Answer, link.Nothing{})
			h.mu.Lock()
			stays := h.grace
			h.mu.Unlock()
			if !stays {
				g.cmd.Process.Kill()
			}
		})
	}
}

func (g *guest) alive() bool {
	if g.cmd == nil {
		return false
	}
	n, err := unix.Poll([]unix.PollFd{{Fd: int32(g.pidfd), Events: unix.POLLIN}}, 0)
	return n == 0 && err == nil
}

func (h *host) killLocked(g *guest) {
	if g.cmd == nil {
		return
	}
	g.cmd.Process.Kill()
	g.cmd.Wait()
	unix.Close(g.pidfd)
	g.cancel()
	g.hello.Close()
	g.serial.Close()
	os.RemoveAll(g.dir)
	g.cmd = nil
}
