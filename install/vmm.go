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

// Where VMMs are copied to.
const (
	firecrackerPath = layout.HelperState + "/bin/firecracker"
	jailerPath      = layout.HelperState + "/bin/jailer"
)

// inspectVMMs looks at the binaries that are to be copied: versions and digests.
// Firecracker must not be older than the floor.
func (o *Options) inspectVMMs(ctx context.Context, r *layout.Record) error {
	for _, b := range []struct {
		from, to string
		into     *layout.Program
	}{{o.Firecracker, firecrackerPath, &r.Firecracker}, {o.Jailer, jailerPath, &r.Jailer}} {
		if b.from == "" {
			continue
		}
		version, err := programVersion(ctx, b.from)
		if err != nil {
			return fmt.Errorf("%w: %w", ErrRefused, err)
		}
		if b.into == &r.Firecracker && doctor.BelowFloor(version) {
			return fmt.Errorf("%w: %s is Firecracker %s, which has known holes: %s", ErrRefused, b.from, version, doctor.Floor)
		}
		f, err := os.Open(b.from)
		if err != nil {
			return fmt.Errorf("%w: %w", ErrRefused, err)
		}
		sum, err := digest(f)
		f.Close()
		if err != nil {
			return err
		}
		*b.into = layout.Program{Path: b.to, SHA256: sum, Version: version}
	}
	return nil
}

// installVMMs copies them.
func (h *host) installVMMs(o *Options, r *layout.Record) error {
	for from, to := range map[string]string{o.Firecracker: r.Firecracker.Path, o.Jailer: r.Jailer.Path} {
		if from == "" {
			continue
		}
		if err := h.copyFile(from, to, 0o755); err != nil {
			return err
		}
	}
	return nil
}

// programVersion asks a VMM's binary for its version.
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
