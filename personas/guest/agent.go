package guest

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/mdlayher/vsock"
	"golang.org/x/sys/unix"

	"banger/personas"
	"banger/personas/guest/agent"
	"banger/personas/guest/halt"
	"banger/personas/guest/link"
	"banger/personas/guest/link/frame"
)

// Descriptors that PID 1 gives the agent.
const (
	agentListener = 3
	agentSettings = 4
	agentHost     = 5 // with Greet only
)

const (
	// shutdownGrace is how long services may take to end, unless the host says
	// otherwise.
	shutdownGrace = 30 * time.Second
	// maxSettings bounds what the agent reads of PID 1.
	maxSettings = 4 << 20
	// cgroupDir is the agent's cgroup, and that of its commands: no init that
	// comes later takes it for one of its own.
	cgroupDir = "/sys/fs/cgroup/banger"
)

// agentConfig is what PID 1 tells the agent.
type agentConfig struct {
	Defaults link.ExecDefaults
	// Disk is a directory on the VM's own file system.
	Disk string
	// Init is the image's init. Empty is our own.
	Init    string
	Systemd bool
	// Greet says that the host waits for a word on agentHost.
	Greet    bool
	Warnings []string
}

// agentStart is what it takes to start the agent, and to start it again.
type agentStart struct {
	listener *os.File
	config   agentConfig
}

// run starts the agent, and returns its pid. With a host, the agent tells it that
// the guest is ready.
func (s *agentStart) run(h *host, warnings []error) (pid int, err error) {
	config, files := s.config, []*os.File{os.Stdin, os.Stdout, os.Stderr, s.listener, nil}
	if h != nil {
		conn, err := h.file()
		if err != nil {
			return 0, err
		}
		defer conn.Close()
		config.Greet = true
		for _, w := range warnings {
			config.Warnings = append(config.Warnings, w.Error())
		}
		files = append(files, conn)
	}
	settings, err := config.file()
	if err != nil {
		return 0, err
	}
	defer settings.Close()
	files[agentSettings] = settings
	attr := &os.ProcAttr{Dir: "/", Env: []string{"HOME=/root", "PATH=/usr/sbin:/usr/bin:/sbin:/bin"}, Files: files,
		Sys: &syscall.SysProcAttr{Setsid: true}}
	if cgroup, err := openCgroup(); err == nil {
		defer cgroup.Close()
		attr.Sys.UseCgroupFD, attr.Sys.CgroupFD = true, int(cgroup.Fd())
	}
	// The file itself is gone with the initrd; this link still leads to it.
	proc, err := os.StartProcess("/proc/self/exe", []string{AgentName}, attr)
	if err != nil {
		return 0, fmt.Errorf("start agent: %w", err)
	}
	pid = proc.Pid
	return pid, proc.Release()
}

// openCgroup makes the agent's cgroup, where there are any.
func openCgroup() (*os.File, error) {
	if err := os.Mkdir(cgroupDir, 0o755); err != nil && !os.IsExist(err) {
		return nil, err
	}
	return os.Open(cgroupDir)
}

// file returns the settings as an anonymous file, to be inherited.
func (c *agentConfig) file() (*os.File, error) {
	text, err := json.Marshal(c)
	if err != nil {
		return nil, err
	}
	fd, err := unix.MemfdCreate("agent", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("create settings: %w", err)
	}
	f := os.NewFile(uintptr(fd), "settings")
	if _, err := f.WriteAt(text, 0); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// runAgent is the agent's process. It ends with the guest.
func runAgent(ctx context.Context, version string) error {
	personas.SetName(processName)
	settings := os.NewFile(agentSettings, "settings")
	text, err := io.ReadAll(io.LimitReader(settings, maxSettings))
	settings.Close()
	if err != nil {
		return fmt.Errorf("read settings: %w", err)
	}
	var config agentConfig
	if err := json.Unmarshal(text, &config); err != nil {
		return fmt.Errorf("read settings: %w", err)
	}
	file := os.NewFile(agentListener, "listener")
	listener, err := vsock.FileListener(file)
	file.Close()
	if err != nil {
		return err
	}
	syscall.Umask(0o022)
	if config.Greet {
		if err := greet(config); err != nil {
			report(err)
		}
	}
	a := agent.New(agent.Config{
		Version:  version,
		Defaults: config.Defaults,
		Console:  "/dev/console",
		Disk:     config.Disk,
		Shutdown: func(req link.ShutdownRequest) error { return end(config, req) },
	})
	if _, err := a.Shield(); err != nil { // for as long as the process lives
		report(err)
	}
	return a.Serve(ctx, hostOnly{listener})
}

// hostOnly takes connections of the host alone. A process in the guest can reach
// the port as well, by the loopback of vsock, and must not become root by it.
type hostOnly struct{ net.Listener }

// Accept waits for the next connection that comes from the host.
func (l hostOnly) Accept() (net.Conn, error) {
	for {
		conn, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if from, ok := conn.RemoteAddr().(*vsock.Addr); ok && from.ContextID == vsock.Host {
			return conn, nil
		}
		conn.Close()
	}
}

// greet tells the host that the guest is ready.
func greet(config agentConfig) error {
	conn := os.NewFile(agentHost, "host")
	defer conn.Close()
	init := config.Init
	if init == "" {
		init = string(link.InitBanger)
	}
	err := frame.NewWriter(conn).JSON(frame.Ready, link.Ready{
		Init: init, UptimeNanos: int64(agent.Uptime()), Warnings: config.Warnings,
	})
	if err != nil {
		return fmt.Errorf("tell host: %w", err)
	}
	return nil
}

// end ends the guest in the way that its init has.
func end(config agentConfig, req link.ShutdownRequest) error {
	grace := shutdownGrace
	if req.GraceSeconds > 0 {
		grace = time.Duration(req.GraceSeconds) * time.Second
	}
	switch {
	case req.Force:
		return halt.Now(0)
	case config.Init == "":
		return halt.Now(min(grace, endGrace))
	}
	return halt.Ask(config.Systemd, grace)
}

// initProgram is an image's init. An empty path is our own.
type initProgram struct {
	path    string
	systemd bool
}

func isSystemd(path string) bool { return strings.HasSuffix(path, "/systemd") }
