package install

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"syscall"
	"time"

	"banger/install/doctor"
	"banger/install/layout"
)

// firecrackerPath is where Firecracker is copied to.
const firecrackerPath = layout.HelperState + "/bin/firecracker"

// inspectFirecracker takes a copy that nobody else can change, and looks at that: its
// version, which must not be below the floor, and its digest. remove removes it.
func (o *Options) inspectFirecracker(ctx context.Context, r *layout.Record) (remove func(), err error) {
	if o.Firecracker == "" {
		return func() {}, nil
	}
	dir, err := os.MkdirTemp("", "banger-install-")
	if err != nil {
		return nil, fmt.Errorf("copy %s: %w", o.Firecracker, err)
	}
	clean := func() { os.RemoveAll(dir) }
	defer func() {
		if err != nil {
			clean()
		}
	}()
	own := filepath.Join(dir, "firecracker")
	sum, err := copyProgram(o.Firecracker, own)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrRefused, err)
	}
	version, err := programVersion(ctx, own)
	if err != nil {
		return nil, fmt.Errorf("%w: %s: %w", ErrRefused, o.Firecracker, err)
	}
	if doctor.BelowFloor(version) {
		return nil, fmt.Errorf("%w: %s is Firecracker %s, which has known holes: take %s", ErrRefused, o.Firecracker, version, doctor.Floor)
	}
	r.Firecracker = layout.Program{Path: firecrackerPath, SHA256: sum, Version: version}
	o.Firecracker = own
	return clean, nil
}

// copyProgram copies a program to where everybody can run it, and returns its digest.
func copyProgram(from, to string) (sum string, err error) {
	in, err := os.Open(from)
	if err != nil {
		return "", err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o700)
	if err != nil {
		return "", err
	}
	defer out.Close()
	if _, err := io.Copy(out, in); err != nil {
		return "", err
	}
	if err := errors.Join(out.Chmod(0o755), os.Chmod(filepath.Dir(to), 0o711)); err != nil {
		return "", err
	}
	if _, err := out.Seek(0, io.SeekStart); err != nil {
		return "", err
	}
	return digest(out)
}

// copyFirecracker copies it.
func (h *host) copyFirecracker(o *Options, r *layout.Record) error {
	if o.Firecracker == "" {
		return nil
	}
	return h.copyFile(o.Firecracker, r.Firecracker.Path, 0o755)
}

// programVersion asks a binary for its version, as nobody: root runs nothing that
// others have made.
func programVersion(ctx context.Context, path string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, path, "--version")
	cmd.Env, cmd.Dir = []string{}, "/"
	if os.Geteuid() == 0 {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	}
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("ask it for its version: %w", err)
	}
	version := regexp.MustCompile(`\d+\.\d+\.\d+`).FindString(string(out))
	if version == "" {
		return "", fmt.Errorf("ask it for its version: it says %q", out[:min(len(out), 80)])
	}
	return version, nil
}

// digest is the SHA-256 of a file in hex; it leaves the file at its beginning.
func digest(f *os.File) (string, error) {
	sum := sha256.New()
	if _, err := io.Copy(sum, f); err != nil {
		return "", fmt.Errorf("read %s: %w", f.Name(), err)
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return "", fmt.Errorf("read %s: %w", f.Name(), err)
	}
	return hex.EncodeToString(sum.Sum(nil)), nil
}
