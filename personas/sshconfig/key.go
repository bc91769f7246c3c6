package sshconfig

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"golang.org/x/crypto/ssh"
)

// comment ends the key's line in a guest's authorized_keys.
const comment = "banger"

// PublicKey returns the owner's public key as a line for authorized_keys. It is
// fs.ErrNotExist where no key was made yet.
func (f Files) PublicKey() (string, error) {
	data, err := os.ReadFile(f.Key())
	if err != nil {
		return "", fmt.Errorf("read ssh key: %w", err)
	}
	// The public half follows from the private one, so that they cannot disagree.
	signer, err := ssh.ParsePrivateKey(data)
	var locked *ssh.PassphraseMissingError
	switch {
	case err == nil:
		return authorizedLine(signer.PublicKey()) + " " + comment, nil
	case errors.As(err, &locked) && locked.PublicKey != nil: // the owner has given it a passphrase
		return authorizedLine(locked.PublicKey) + " " + comment, nil
	}
	return "", fmt.Errorf("read ssh key %s: %w", f.Key(), err)
}

// EnsureKey is PublicKey, and makes the pair the first time. Of two processes that
// do so at once one makes it, and both return it.
func (f Files) EnsureKey() (string, error) {
	line, err := f.PublicKey()
	if !errors.Is(err, fs.ErrNotExist) {
		return line, err
	}
	if err := f.makeKey(); err != nil {
		return "", fmt.Errorf("make ssh key: %w", err)
	}
	if line, err = f.PublicKey(); err != nil {
		return "", err
	}
	// For tools that want to see it; nothing here reads it.
	if err := write(f.Key()+".pub", []byte(line+"\n"), 0o644); err != nil {
		return "", fmt.Errorf("write public ssh key: %w", err)
	}
	return line, nil
}

// makeKey makes the private key, unless one is there.
func (f Files) makeKey() error {
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return err
	}
	block, err := ssh.MarshalPrivateKey(private, comment)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(f.dir(), 0o700); err != nil {
		return err
	}
	tmp, err := writeTemp(f.dir(), pem.EncodeToMemory(block), 0o600)
	if err != nil {
		return err
	}
	defer os.Remove(tmp)
	// A link, unlike a rename, replaces nothing.
	if err := os.Link(tmp, f.Key()); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return syncDir(f.dir())
}

func authorizedLine(key ssh.PublicKey) string {
	return strings.TrimSpace(string(ssh.MarshalAuthorizedKey(key)))
}
