// Package sshconfig makes plain ssh, scp, rsync and editors reach VMs by name:
// a key of the owner's, a configuration of its own, and one line in the owner's
// that includes it, only where the owner asks for that.
//
// No list of known hosts is kept: ssh asks banger for the key of a VM, which was
// made with the VM and goes with it. Everything lies in the home of the user who
// calls, and is made by processes of that user.
package sshconfig

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// Files are where everything is, below the home of the owner.
type Files struct{ home string }

// In returns the files of the user with this home.
func In(home string) Files { return Files{home} }

func (f Files) dir() string { return filepath.Join(f.home, ".local/share/banger/ssh") }

// Key is the owner's private key.
func (f Files) Key() string { return filepath.Join(f.dir(), "id_ed25519") }

// Config is ssh's configuration for VMs.
func (f Files) Config() string { return filepath.Join(f.dir(), "config") }

// user is the owner's own configuration.
func (f Files) user() string { return filepath.Join(f.home, ".ssh/config") }

// text is the configuration in which ssh starts the banger at binary.
//
// ssh gives ProxyCommand to the user's shell, and a name may come from anywhere, such
// as the URL of a git submodule: within single quotes a quote is the one thing that
// a shell could take for something else, and a name with one is no VM's.
// KnownHostsCommand is started without a shell. It is of OpenSSH 8.5; see Check.
const text = `# Written by "banger ssh-config". VMs are reached through banger itself, by no
# route of this host's, and are known by the keys that they were made with.
Host *.vm "!*'*"
	User root
	IdentityFile "%[1]s"
	IdentitiesOnly yes
	ProxyCommand '%[2]s' ssh-connect '%%h' %%p
	KnownHostsCommand "%[2]s" ssh-host-key %%H
	UserKnownHostsFile /dev/null
	GlobalKnownHostsFile /dev/null
	StrictHostKeyChecking yes
	HostKeyAlgorithms ssh-ed25519
	CheckHostIP no
	UpdateHostKeys no
	ForwardAgent no
	ForwardX11 no
`

// WriteConfig writes the configuration, in which ssh starts the banger at binary.
func (f Files) WriteConfig(binary string) error {
	if strings.ContainsAny(binary+f.home, "\"'\\\n%") {
		return fmt.Errorf("write ssh configuration: %q or %q is a path that ssh cannot be told", binary, f.home)
	}
	if err := os.MkdirAll(f.dir(), 0o700); err != nil {
		return fmt.Errorf("write ssh configuration: %w", err)
	}
	want := fmt.Appendf(nil, text, f.Key(), binary)
	if old, err := os.ReadFile(f.Config()); err == nil && bytes.Equal(old, want) {
		return nil
	}
	if err := write(f.Config(), want, 0o600); err != nil {
		return fmt.Errorf("write ssh configuration: %w", err)
	}
	return nil
}

// Check asks the ssh at program whether it understands our configuration: one that
// does not would, once it is included, not reach any host any more.
func (f Files) Check(ctx context.Context, program string) error {
	out, err := exec.CommandContext(ctx, program, "-G", "-F", f.Config(), "name.vm").CombinedOutput()
	if err != nil {
		return fmt.Errorf("check ssh configuration: %w: %s", err, bytes.TrimSpace(out))
	}
	return nil
}

// The lines around ours in the owner's configuration.
const (
	begin = "# banger: begin"
	end   = "# banger: end"
)

// Include puts our lines first into the owner's configuration: what comes first
// counts in ssh. Everything else there stays as it is.
func (f Files) Include() error {
	old, err := f.without()
	if err != nil {
		return err
	}
	text := fmt.Sprintf("%s\nInclude \"%s\"\n%s\n%s", begin, f.Config(), end, old)
	return f.replaceUser([]byte(text))
}

// Exclude takes our lines out again, and removes our configuration. The key stays:
// there are VMs that admit it. A configuration of the owner's that had nothing else
// in it goes.
func (f Files) Exclude() error {
	if err := os.Remove(f.Config()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove ssh configuration: %w", err)
	}
	info, err := os.Lstat(f.user())
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	rest, werr := f.without()
	if err := errors.Join(err, werr); err != nil {
		return err
	}
	if len(rest) == 0 && info.Mode().IsRegular() {
		return os.Remove(f.user())
	}
	return f.replaceUser(rest)
}

// without is the owner's configuration without our lines.
func (f Files) without() ([]byte, error) {
	old, err := os.ReadFile(f.user())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("read ssh configuration: %w", err)
	}
	from := bytes.Index(old, []byte(begin+"\n"))
	if from < 0 {
		return old, nil
	}
	to := bytes.Index(old[from:], []byte(end+"\n"))
	if to < 0 {
		return nil, fmt.Errorf("read ssh configuration %s: %q is missing: mend it by hand", f.user(), end)
	}
	return append(old[:from:from], old[from+to+len(end)+1:]...), nil
}

// replaceUser writes the owner's configuration, where it is: it may be a link.
func (f Files) replaceUser(text []byte) error {
	path := f.user()
	if to, err := filepath.EvalSymlinks(path); err == nil {
		path = to
	}
	mode := fs.FileMode(0o600)
	if info, err := os.Stat(path); err == nil {
		mode = info.Mode().Perm()
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return fmt.Errorf("write ssh configuration: %w", err)
	}
	if err := write(path, text, mode); err != nil {
		return fmt.Errorf("write ssh configuration: %w", err)
	}
	return nil
}

// write replaces a file as a whole.
func write(path string, data []byte, mode fs.FileMode) error {
	tmp, err := writeTemp(filepath.Dir(path), data, mode)
	if err != nil {
		return err
	}
	defer os.Remove(tmp) // where it was not renamed
	if err := os.Rename(tmp, path); err != nil {
		return err
	}
	return syncDir(filepath.Dir(path))
}

// syncDir makes what was created or renamed in dir survive a power cut.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// writeTemp writes a file beside the one that it shall become.
func writeTemp(dir string, data []byte, mode fs.FileMode) (path string, err error) {
	tmp, err := os.CreateTemp(dir, ".banger-")
	if err != nil {
		return "", err
	}
	defer tmp.Close()
	_, err = tmp.Write(data)
	if err = errors.Join(err, tmp.Chmod(mode), tmp.Sync()); err != nil {
		os.Remove(tmp.Name())
		return "", err
	}
	return tmp.Name(), nil
}
