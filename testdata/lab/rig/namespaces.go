package rig

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"

	"banger/testdata/lab/tree"
)

// Names that this program goes by as another process.
const (
	keeperName = "banger-lab-keeper"
	firstName  = "banger-lab-first"
)

// Main returns at once, unless the program was started as a process of a lab
// host: then it is that and does not return.
func Main() {
	var main func(world) error
	switch os.Args[0] {
	case keeperName:
		main = keep
	case firstName:
		main = becomeHost
	default:
		return
	}
	var w world
	err := json.Unmarshal([]byte(os.Args[1]), &w)
	if err == nil {
		err = main(w)
	}
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	os.Exit(0)
}

// world is what a host's first process needs to know, and who keeps it.
type world struct {
	Dir    string // of the host: scratch space, and where the agent calls
	Tree   string
	Agent  string
	Cgroup string
	Files  map[string]string
	// Program is what to run instead of a first process.
	Program []string
}

// Below world.Dir.
const (
	portDir  = "port"  // what the host sees as /run/lab
	upperDir = "upper" // what the host has written
	workDir  = "work"
	rootDir  = "root"
)

// namespaces is a host of this machine's kernel. Its keeper is a process of its
// own, so that all is cleared away even when this one is killed.
type namespaces struct {
	agents *net.UnixListener // where the agent calls
	keeper *keeper
}

func startNamespaces(dir string, t tree.Tree, agent string, files map[string]string) (*namespaces, error) {
	cgroups, err := cgroupMount()
	if err != nil {
		return nil, err
	}
	w := world{Dir: dir, Tree: t.Dir, Agent: agent, Files: files, Cgroup: filepath.Join(cgroups, filepath.Base(dir))}
	for _, name := range []string{portDir, upperDir, workDir, rootDir} {
		if err := os.Mkdir(filepath.Join(dir, name), 0o755); err != nil {
			return nil, err
		}
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		return nil, err
	}
	n := &namespaces{}
	n.agents, err = net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(dir, portDir, "port")})
	if err != nil {
		return nil, err
	}
	n.agents.SetUnlinkOnClose(false)
	if n.keeper, err = startKeeper(w); err != nil {
		n.agents.Close()
		return nil, err
	}
	return n, nil
}

func (n *namespaces) dial(ctx context.Context) (io.ReadWriteCloser, error) {
	stop := context.AfterFunc(ctx, func() { n.agents.SetDeadline(longAgo) })
	defer stop()
	return n.agents.Accept()
}

func (n *namespaces) crash() error {
	_, err := fmt.Fprintln(n.keeper.orders, crash)
	return err
}

func (n *namespaces) processors(context.Context) string { return "" }

func (n *namespaces) watch(ctx context.Context) error {
	<-ctx.Done()
	return ctx.Err()
}

func (n *namespaces) welcome() string { return "true" }

func (n *namespaces) close() error {
	n.agents.Close()
	return n.keeper.close()
}

// cgroupMount returns where this machine has its cgroups of version 2.
func cgroupMount() (string, error) {
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(string(b)) {
		before, after, _ := strings.Cut(line, " - ")
		if strings.HasPrefix(after, "cgroup2 ") {
			return strings.Fields(before)[4], nil
		}
	}
	return "", errors.New("this machine has no cgroup2 mounted")
}
