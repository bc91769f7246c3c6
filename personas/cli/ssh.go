package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"

	"banger/install/layout"
	"banger/personas/guest/link"
	"banger/personas/sshconfig"
)

// sshCmd is `banger vm ssh`.
type sshCmd struct {
	VM      string   `arg:"" name:"vm" help:"Name or id of a running VM."`
	Command []string `arg:"" optional:"" passthrough:"partial" name:"cmd" help:"Command and arguments, passed on as they are. Default: a shell."`
}

// Help returns examples.
func (sshCmd) Help() string {
	return `By ssh where the guest has an sshd, with a key of your own and the VM's pinned host key; else as "vm exec" does. After "banger ssh-config --install", plain ssh, scp, rsync and editors find VMs by name.

    banger vm ssh web
    banger vm ssh web -- journalctl -f`
}

// Run becomes ssh, or runs the command as exec does.
func (c *sshCmd) Run(ctx context.Context, a *app) error {
	terminal := len(c.Command) == 0 && isTerminal(a.in) && isTerminal(a.out)
	cmd, err := a.command(c.Command, ioFlags{Interactive: true, TTY: terminal})
	if err != nil {
		return err
	}
	client, err := a.daemon(ctx)
	if err != nil {
		return err
	}
	vm, err := client.VM(ctx, c.VM)
	if err != nil {
		return err
	}
	ssh, err := exec.LookPath("ssh")
	home := ownHome()
	if err != nil || home == "" {
		return a.exec(ctx, client, vm.ID, cmd)
	}
	conn, err := dialGuest(ctx, client, vm.ID, sshPort)
	if errors.Is(err, link.ErrRefused) {
		return a.exec(ctx, client, vm.ID, cmd)
	}
	if err != nil {
		return err
	}
	conn.Close() // ssh makes its own
	files, err := sshFiles(home)
	if err != nil {
		return err
	}
	argv := []string{"ssh", "-F", files.Config(), vm.Name + vmDomain}
	if len(c.Command) > 0 {
		// ssh joins its words and gives them to the guest's shell.
		argv = append(append(argv, "--"), quoteAll(cmd.args)...)
	}
	return fmt.Errorf("run ssh: %w", syscall.Exec(ssh, argv, os.Environ()))
}

// quoteAll quotes words for a shell.
func quoteAll(words []string) []string {
	quoted := make([]string, len(words))
	for i, w := range words {
		quoted[i] = "'" + strings.ReplaceAll(w, "'", `'\''`) + "'"
	}
	return quoted
}

// ownHome is the home of the user who has started this process, if it is theirs:
// root on behalf of somebody touches nobody's keys. It is empty where there is none.
func ownHome() string {
	if os.Geteuid() == 0 && os.Getenv("SUDO_UID") != "" {
		return ""
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return ""
	}
	info, err := os.Stat(home)
	if err != nil {
		return ""
	}
	if st, ok := info.Sys().(*syscall.Stat_t); !ok || int(st.Uid) != os.Geteuid() {
		return ""
	}
	return home
}

// sshFiles returns the user's key and configuration, made if they are not there.
func sshFiles(home string) (sshconfig.Files, error) {
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

// authorizedKeys are the keys that a new VM shall admit: the user's. Where root acts
// for somebody, the daemon, which is theirs, adds the key itself.
func (a *app) authorizedKeys() ([]string, error) {
	home := ownHome()
	if home == "" {
		return nil, nil
	}
	line, err := sshconfig.In(home).EnsureKey()
	if errors.Is(err, syscall.EROFS) || errors.Is(err, syscall.EACCES) {
		return nil, nil // a home that cannot be written to has no keys, and needs none
	}
	if err != nil {
		return nil, err
	}
	return []string{line}, nil
}

// sshConfigCmd is `banger ssh-config`.
type sshConfigCmd struct {
	Install   bool `xor:"what" help:"Include banger's configuration in ~/.ssh/config."`
	Uninstall bool `xor:"what" help:"Take it out of there again, and remove it."`
}

// Help returns examples.
func (sshConfigCmd) Help() string {
	return `Writes a configuration of its own for hosts that end in .vm, and prints where. Only --install touches ~/.ssh/config: it puts one Include line between two markers. Nothing needs root, a route or the host's resolver.

    banger ssh-config --install
    ssh web.vm; scp notes web.vm:; rsync -a src/ web.vm:src/
    banger ssh-config --uninstall`
}

// Run writes what is asked for.
func (c *sshConfigCmd) Run(ctx context.Context, a *app) error {
	home := ownHome()
	if home == "" {
		return &usageError{message: "ssh's configuration is each user's own", hint: "run it without sudo, as the user whose home it is"}
	}
	if c.Uninstall {
		return sshconfig.In(home).Exclude()
	}
	files, err := sshFiles(home)
	if err != nil {
		return err
	}
	if ssh, err := exec.LookPath("ssh"); err == nil && c.Install {
		if err := files.Check(ctx, ssh); err != nil {
			return withHint(err, "OpenSSH 8.5 or later is needed; ~/.ssh/config was not touched")
		}
	}
	if c.Install {
		if err := files.Include(); err != nil {
			return err
		}
	}
	return a.printNames([]string{files.Config()})
}
