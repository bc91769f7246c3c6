// Package sshconfig makes plain ssh, scp, rsync and editors reach VMs by name:
// a key of the owner's, a configuration of its own, and one line in the owner's
// that includes it, only where the owner asks for that.
//
// No list of known hosts is kept: ssh asks banger for the key of a VM, which was
// made with the VM and goes with it.
package sshconfig

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/crypto/ssh"
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

// EnsureKey returns the owner's public key, as a line for authorized_keys. The
// first time it makes the pair.
func (f Files) EnsureKey() (string, error) {
	data, err := os.ReadFile(f.Key() + ".pub")
	if err == nil {
		if _, _, _, _, err := ssh.ParseAuthorizedKey(data); err != nil {
			return "", fmt.Errorf("read ssh key %s: %w", f.Key()+".pub", err)
		}
		return strings.TrimSpace(string(data)), nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("read ssh key: %w", err)
	}
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return "", fmt.Errorf("make ssh key: %w", err)
	}
	block, err := ssh.MarshalPrivateKey(private, "banger")
	if err != nil {
		return "", fmt.Errorf("make ssh key: %w", err)
	}
	pub, err := ssh.NewPublicKey(public)
	if err != nil {
		return "", fmt.Errorf("make ssh key: %w", err)
	}
	line := strings.TrimSpace(string(ssh.MarshalAuthorizedKey(pub))) + " banger"
	if err := os.MkdirAll(f.dir(), 0o700); err != nil {
		return "", fmt.Errorf("make ssh key: %w", err)
	}
	// The public half comes last: it says that the pair is complete.
	if err := write(f.Key(), pem.EncodeToMemory(block), 0o600); err != nil {
		return "", fmt.Errorf("make ssh key: %w", err)
	}
	if err := write(f.Key()+".pub", []byte(line+"\n"), 0o644); err != nil {
		return "", fmt.Errorf("make ssh key: %w", err)
	}
	return line, nil
}

// WriteConfig writes the configuration, in which ssh starts the banger at binary.
func (f Files) WriteConfig(binary string) error {
	if strings.ContainsAny(binary+f.home, "\"\n%") {
		return fmt.Errorf("write ssh configuration: %q or %q is a path that ssh cannot be told", binary, f.home)
	}
	text := fmt.Sprintf(`# Written by "banger ssh-config". VMs are reached through banger itself, by no
# route of this host's, and are known by the keys that they were made with.
Host *.vm
	User root
	IdentityFile "%s"
	IdentitiesOnly yes
	ProxyCommand "%s" ssh-connect %%h %%p
	KnownHostsCommand "%s" ssh-host-key %%H
	UserKnownHostsFile /dev/null
	GlobalKnownHostsFile /dev/null
	StrictHostKeyChecking yes
	CheckHostIP no
	UpdateHostKeys no
`, f.Key(), binary, binary)
	if err := os.MkdirAll(f.dir(), 0o700); err != nil {
		return fmt.Errorf("write ssh configuration: %w", err)
	}
	if err := write(f.Config(), []byte(text), 0o600); err != nil {
		return fmt.Errorf("write ssh configuration: %w", err)
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

// Exclude takes our lines out again.
func (f Files) Exclude() error {
	if _, err := os.Stat(f.user()); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	old, err := f.without()
	if err != nil {
		return err
	}
	return f.replaceUser(old)
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
	tmp, err := os.CreateTemp(filepath.Dir(path), ".banger-")
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name())
	defer tmp.Close()
	if _, err := tmp.Write(data); err != nil {
		return err
	}
	if err := errors.Join(tmp.Chmod(mode), tmp.Sync()); err != nil {
		return err
	}
	return os.Rename(tmp.Name(), path)
}
