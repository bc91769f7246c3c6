package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"golang.org/x/term"

	"banger/install/layout"
	"banger/personas/api"
	"banger/personas/cli/sshconfig"
)

// sshCmd is `banger vm ssh`.
type sshCmd struct {
	VM      string   `arg:"" help:"Name or id."`
	Command []string `arg:"" optional:"" passthrough:"" placeholder:"-- CMD" help:"What to run instead of a shell."`
}

// Help returns examples.
func (sshCmd) Help() string {
	return `By ssh where the guest has an sshd, with a key of your own and the VM's pinned host key; else as "vm exec" does. After "banger ssh-config --install", plain ssh, scp, rsync and editors find VMs by name.

    banger vm ssh web
    banger vm ssh web -- journalctl -f`
}

// Run becomes ssh, or runs the command as exec does.
func (c sshCmd) Run(ctx context.Context, a *app) error {
	client, err := a.daemon(ctx)
	if err != nil {
		return err
	}
	vm, err := client.VM(ctx, c.VM)
	if err != nil {
		return err
	}
	args := c.Command
	if len(args) > 0 && args[0] == "--" {
		args = args[1:]
	}
	program, err := exec.LookPath("ssh")
	if err != nil || os.Geteuid() == 0 || !answersSSH(ctx, vm) {
		if len(args) == 0 {
			args = []string{"/bin/sh", "-l"}
		}
		terminal := term.IsTerminal(int(a.in.Fd()))
		return a.exec(ctx, client, c.VM, command{args: args, tty: terminal, stdin: true})
	}
	files, err := a.sshFiles()
	if err != nil {
		return err
	}
	// ssh(1) joins its words and gives them to the guest's shell.
	argv := append([]string{"ssh", "-F", files.Config(), vm.Name + ".vm"}, quoteAll(args)...)
	return fmt.Errorf("run ssh: %w", syscall.Exec(program, argv, os.Environ()))
}

// answersSSH reports whether somebody listens where sshd would.
func answersSSH(ctx context.Context, vm api.VM) bool {
	if vm.Address == "" || vm.State != api.Running {
		return false
	}
	d := net.Dialer{Timeout: time.Second}
	conn, err := d.DialContext(ctx, "tcp", net.JoinHostPort(vm.Address, "22"))
	if err != nil {
		return false
	}
	conn.Close()
	return true
}

// quoteAll quotes words for a shell.
func quoteAll(words []string) []string {
	quoted := make([]string, len(words))
	for i, w := range words {
		quoted[i] = "'" + strings.ReplaceAll(w, "'", `'\''`) + "'"
	}
	return quoted
}

// sshFiles returns the user's key and configuration, made if they are not there.
func (a *app) sshFiles() (sshconfig.Files, error) {
	home, err := os.UserHomeDir()
	if err != nil {
		return sshconfig.Files{}, fmt.Errorf("find home for the ssh key: %w", err)
	}
	files := sshconfig.In(home)
	if _, err := files.EnsureKey(); err != nil {
		return files, err
	}
	binary, err := ownBinary()
	if err != nil {
		return files, err
	}
	return files, files.WriteConfig(binary)
}

// ownBinary is the banger for ssh to start: the installed one, which stays where
// it is, or else this one.
func ownBinary() (string, error) {
	if r, err := layout.Load(layout.Metadata); err == nil {
		return layout.Binary(r.Prefix), nil
	}
	path, err := os.Executable()
	if err != nil {
		return "", fmt.Errorf("find own binary: %w", err)
	}
	return path, nil
}

// authorizedKeys are the keys that a new VM shall admit: the user's. Root has
// none, and makes none for others.
func (a *app) authorizedKeys() ([]string, error) {
	home, err := os.UserHomeDir()
	if err != nil || os.Geteuid() == 0 {
		return nil, nil
	}
	line, err := sshconfig.In(home).EnsureKey()
	if err != nil {
		return nil, err
	}
	return []string{line}, nil
}

// sshConfigCmd is `banger ssh-config`.
type sshConfigCmd struct {
	Install   bool `xor:"what" help:"Include banger's configuration in ~/.ssh/config."`
	Uninstall bool `xor:"what" help:"Take it out of there again."`
}

// Help returns examples.
func (sshConfigCmd) Help() string {
	return `Writes a configuration of its own for hosts that end in .vm, and prints where. Only --install touches ~/.ssh/config: it puts one Include line between two markers. Nothing needs root, a route or the host's resolver.

    banger ssh-config --install
    ssh web.vm; scp notes web.vm:; rsync -a src/ web.vm:src/
    banger ssh-config --uninstall`
}

// Run writes what is asked for.
func (c sshConfigCmd) Run(_ context.Context, a *app) error {
	if os.Geteuid() == 0 {
		return &usageError{message: "ssh's configuration is each user's own", hint: "run it without sudo"}
	}
	files, err := a.sshFiles()
	if err != nil {
		return err
	}
	switch {
	case c.Install:
		err = files.Include()
	case c.Uninstall:
		err = files.Exclude()
	}
	if err != nil {
		return err
	}
	return a.printNames([]string{files.Config()})
}

// sshConnectCmd is what ssh runs to reach a VM: `banger ssh-connect NAME.vm PORT`.
type sshConnectCmd struct {
	Host string `arg:""`
	Port uint16 `arg:""`
}

// Run joins the VM's port and this process's standard input and output.
func (c sshConnectCmd) Run(ctx context.Context, a *app) error {
	vm, err := a.client().VM(ctx, vmOfHost(c.Host))
	if err != nil {
		return unreachable(err)
	}
	if vm.Address == "" {
		return withHint(fmt.Errorf("connect to VM %s: it has no network", vm.Name), "banger vm exec works without")
	}
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", net.JoinHostPort(vm.Address, fmt.Sprint(c.Port)))
	if err != nil {
		return fmt.Errorf("connect to VM %s: %w", vm.Name, err)
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	go func() {
		_, _ = io.Copy(conn, a.in)
		_ = conn.(*net.TCPConn).CloseWrite()
	}()
	if _, err := io.Copy(a.out, conn); err != nil && ctx.Err() == nil {
		return fmt.Errorf("read from VM %s: %w", vm.Name, err)
	}
	return nil
}

// sshHostKeyCmd is what ssh asks for a VM's key: `banger ssh-host-key NAME.vm`.
type sshHostKeyCmd struct {
	Host string `arg:""`
}

// Run prints a line as in known_hosts.
func (c sshHostKeyCmd) Run(ctx context.Context, a *app) error {
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
	return strings.TrimSuffix(strings.ToLower(host), ".vm")
}
