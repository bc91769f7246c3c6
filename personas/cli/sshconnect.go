package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"time"

	"banger/personas/api"
	"banger/personas/guest/link"
)

const (
	// sshPort is where an sshd listens.
	sshPort = 22
	// vmDomain ends the names that VMs have for ssh.
	vmDomain = ".vm"
	// sshdGrace is how long after its VM's start an sshd may come up.
	sshdGrace = 90 * time.Second
	// sshdRetry is the time between two looks whether it has.
	sshdRetry = 500 * time.Millisecond
)

// sshConnectCmd is what ssh runs to reach a VM: `banger ssh-connect NAME.vm PORT`.
// The way leads through the guest's agent: there need be no route, no address and no
// open firewall, and no daemon is on it.
type sshConnectCmd struct {
	Host string `arg:""`
	Port uint16 `arg:""`
}

// Run joins a port in the VM with standard input and output.
func (c *sshConnectCmd) Run(ctx context.Context, a *app) error {
	client := a.client()
	vm, err := client.VM(ctx, vmOfHost(c.Host))
	if err != nil {
		return unreachable(err)
	}
	conn, err := awaitGuest(ctx, client, vm, c.Port)
	if errors.Is(err, link.ErrRefused) {
		return withHint(fmt.Errorf("VM %s: nobody listens on port %d", vm.Name, c.Port), `"banger vm exec %s" needs no sshd`, vm.Name)
	}
	if err != nil {
		return err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	go func() {
		_, _ = io.Copy(conn, a.in)
		conn.Close() // ssh has gone
	}()
	if _, err := io.Copy(a.out, conn); err != nil && !errors.Is(err, net.ErrClosed) {
		return fmt.Errorf("read from VM %s: %w", vm.Name, err)
	}
	return nil
}

// awaitGuest is dialGuest, and waits for the sshd of a VM that has just started, if
// there is one to come.
func awaitGuest(ctx context.Context, client *api.Client, vm api.VM, port uint16) (net.Conn, error) {
	for asked := false; ; asked = true {
		conn, err := dialGuest(ctx, client, vm.ID, port)
		if !errors.Is(err, link.ErrRefused) || time.Since(vm.StartedAt) > sshdGrace {
			return conn, err
		}
		if !asked && !hasSSHD(ctx, client, vm.ID) {
			return nil, err
		}
		select {
		case <-time.After(sshdRetry):
		case <-ctx.Done():
			return nil, err
		}
	}
}

// dialGuest connects to a port of the guest's loopback.
func dialGuest(ctx context.Context, client *api.Client, vm string, port uint16) (net.Conn, error) {
	conn, err := client.Agent(ctx, vm)
	if err != nil {
		return nil, err
	}
	if err := link.Dial(ctx, conn, port); err != nil {
		return nil, err
	}
	return conn, nil
}

// hasSSHD reports whether the guest has the program.
func hasSSHD(ctx context.Context, client *api.Client, vm string) bool {
	conn, err := client.Agent(ctx, vm)
	if err != nil {
		return false
	}
	code, err := link.Exec(ctx, conn, link.ExecRequest{
		Args: []string{"/bin/sh", "-c", "test -x /usr/sbin/sshd || test -x /usr/bin/sshd"}, User: "0", Dir: "/",
	}, link.ExecIO{})
	return err == nil && code == 0
}

// sshHostKeyCmd is what ssh asks for a VM's key: `banger ssh-host-key NAME.vm`.
type sshHostKeyCmd struct {
	Host string `arg:""`
}

// Run prints a line as in known_hosts.
func (c *sshHostKeyCmd) Run(ctx context.Context, a *app) error {
	vm, err := a.client().VM(ctx, vmOfHost(c.Host))
	if err != nil {
		return unreachable(err)
	}
	if vm.HostKey == "" {
		return errors.New("the VM has no pinned host key: it was made by an older banger")
	}
	return a.write(c.Host + " " + vm.HostKey + "\n")
}

// vmOfHost is the VM that ssh calls by this name: web.vm, or [web.vm]:2222.
func vmOfHost(host string) string {
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	return strings.TrimSuffix(strings.ToLower(host), vmDomain)
}
