package etc

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/moby/sys/user"
	"golang.org/x/sys/unix"

	"banger/personas/guest/link"
)

// setKeys installs the VM's ssh host key and the owner's keys, where there is an
// sshd to use them.
func (t Tree) setKeys(config link.BootConfig) error {
	if !t.exists("/usr/sbin/sshd") && !t.exists("/usr/bin/sshd") {
		return nil
	}
	var errs []error
	if config.HostKey != "" {
		errs = append(errs, t.setHostKey(config.HostKey))
	}
	if len(config.AuthorizedKeys) > 0 {
		name, _, _ := strings.Cut(config.Exec.User, ":")
		for _, u := range slices.Compact([]string{"root", name}) {
			if u != "" {
				errs = append(errs, t.authorize(u, config.AuthorizedKeys))
			}
		}
	}
	return errors.Join(errs...)
}

// setHostKey puts the pinned key at the place where sshd looks for its kind. The
// public half is derived by sshd; an old one would contradict.
func (t Tree) setHostKey(pem string) error {
	key := t.path("/etc/ssh/ssh_host_ed25519_key")
	if err := os.MkdirAll(filepath.Dir(key), 0o755); err != nil {
		return err
	}
	data := []byte(strings.TrimRight(pem, "\n") + "\n")
	if old, err := os.ReadFile(key); err == nil && bytes.Equal(old, data) {
		return nil
	}
	if err := os.Remove(key + ".pub"); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return replace(key, data, 0o600)
}

// authorize adds the lines to a user's authorized_keys that are not there yet.
// The user may be a number. One that the guest does not have is left out.
func (t Tree) authorize(name string, lines []string) error {
	users, err := user.ParsePasswdFileFilter(t.path("/etc/passwd"), func(u user.User) bool { return u.Name == name || uid(u) == name })
	if err != nil || len(users) == 0 || !filepath.IsAbs(users[0].Home) {
		return nil
	}
	u := users[0]
	dir := filepath.Join(t.path(u.Home), ".ssh")
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return err
	}
	err = os.Mkdir(dir, 0o700)
	switch {
	case err == nil:
		if err := os.Lchown(dir, u.Uid, u.Gid); err != nil {
			return err
		}
	case !errors.Is(err, fs.ErrExist):
		return err
	}
	home, err := os.OpenRoot(t.path(u.Home))
	if err != nil {
		return err
	}
	defer home.Close()
	return appendLines(home, ".ssh/authorized_keys", lines, u)
}

func uid(u user.User) string { return strconv.Itoa(u.Uid) }

// appendLines adds the missing lines to a file that belongs to u. The Root keeps
// a link that the user has laid from leading root out of the user's home.
func appendLines(home *os.Root, name string, lines []string, u user.User) error {
	f, err := home.OpenFile(name, os.O_RDWR|os.O_CREATE|unix.O_NONBLOCK, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() || info.Size() > maxHosts {
		return &fs.PathError{Op: "append", Path: name, Err: fs.ErrInvalid}
	}
	old := make([]byte, info.Size())
	if _, err := f.ReadAt(old, 0); err != nil && info.Size() > 0 {
		return err
	}
	have := strings.Split(string(old), "\n")
	var add strings.Builder
	if len(old) > 0 && old[len(old)-1] != '\n' {
		add.WriteByte('\n')
	}
	for _, l := range lines {
		if l = strings.TrimSpace(l); l != "" && !slices.Contains(have, l) {
			add.WriteString(l + "\n")
		}
	}
	if _, err := f.WriteAt([]byte(add.String()), info.Size()); err != nil {
		return err
	}
	return f.Chown(u.Uid, u.Gid)
}
