package install

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"os/exec"
	"regexp"
	"time"

	"banger/install/doctor"
	"banger/install/layout"
)

// firecrackerPath is where Firecracker is copied to.
const firecrackerPath = layout.HelperState + "/bin/firecracker"

// inspectFirecracker looks at the binary that is to be copied: its version, which
// must not be below the floor, and its digest.
func (o *Options) inspectFirecracker(ctx context.Context, r *layout.Record) error {
	if o.Firecracker == "" {
		return nil
	}
	version, err := programVersion(ctx, o.Firecracker)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrRefused, err)
	}
	if doctor.BelowFloor(version) {
		return fmt.Errorf("%w: %s is Firecracker %s, which has known holes: take %s", ErrRefused, o.Firecracker, version, doctor.Floor)
	}
	f, err := os.Open(o.Firecracker)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrRefused, err)
	}
	defer f.Close()
	sum, err := digest(f)
	r.Firecracker = layout.Program{Path: firecrackerPath, SHA256: sum, Version: version}
	return err
}

// copyFirecracker copies it.
func (h *host) copyFirecracker(o *Options, r *layout.Record) error {
	if o.Firecracker == "" {
		return nil
	}
	return h.copyFile(o.Firecracker, r.Firecracker.Path, 0o755)
}

// programVersion asks a binary for its version.
func programVersion(ctx context.Context, path string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, path, "--version")
	cmd.Env = []string{}
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("ask %s for its version: %w", path, err)
	}
	version := regexp.MustCompile(`\d+\.\d+\.\d+`).FindString(string(out))
	if version == "" {
		return "", fmt.Errorf("ask %s for its version: it says %q", path, out[:min(len(out), 80)])
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
