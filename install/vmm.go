package install

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"

	"banger/install/doctor"
	"banger/install/layout"
)

// inspectVMM takes copies of Firecracker and its jailer, as far as they are given, that
// nobody else can change, and looks at those: their version, which must not be below
// the floor and the same for both, and their digest. remove removes them.
func (o *Options) inspectVMM(ctx context.Context, r *layout.Record) (remove func(), err error) {
	if o.Firecracker == "" && o.Jailer == "" {
		return func() {}, nil
	}
	dir, err := os.MkdirTemp("", "banger-install-")
	if err != nil {
		return nil, fmt.Errorf("copy Firecracker: %w", err)
	}
	clean := func() { os.RemoveAll(dir) }
	defer func() {
		if err != nil {
			clean()
		}
	}()
	for _, p := range []struct {
		given  *string
		name   string
		record *layout.Program
		path   string
	}{
		{&o.Firecracker, "Firecracker", &r.Firecracker, layout.Firecracker},
		{&o.Jailer, "jailer", &r.Jailer, layout.Jailer},
	} {
		if *p.given == "" {
			continue
		}
		own := filepath.Join(dir, filepath.Base(p.path))
		version, sum, err := inspectProgram(ctx, *p.given, own)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", ErrRefused, err)
		}
		if doctor.BelowFloor(version) {
			return nil, fmt.Errorf("%w: %s is %s %s, which has known holes: take %s", ErrRefused, *p.given, p.name, version, doctor.Floor)
		}
		*p.record = layout.Program{Path: p.path, SHA256: sum, Version: version}
		*p.given = own
	}
	switch fc, jailer := r.Firecracker, r.Jailer; {
	case jailer.Path == "" || fc.Version == jailer.Version:
		return clean, nil
	case fc.Path == "":
		return nil, fmt.Errorf("%w: a jailer without a Firecracker: say --firecracker, too", ErrRefused)
	default:
		return nil, fmt.Errorf("%w: Firecracker %s and jailer %s are not of one version: say --firecracker and --jailer, with two of the same", ErrRefused, fc.Version, jailer.Version)
	}
}

// inspectProgram copies a program, and asks the copy for its version.
func inspectProgram(ctx context.Context, from, to string) (version, sum string, err error) {
	if sum, err = copyProgram(from, to); err != nil {
		return "", "", err
	}
	if version, err = programVersion(ctx, to); err != nil {
		return "", "", fmt.Errorf("%s: %w", from, err)
	}
	return version, sum, nil
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

// copyVMM copies what was inspected.
func (h *host) copyVMM(o *Options) error {
	for from, to := range map[string]string{o.Firecracker: layout.Firecracker, o.Jailer: layout.Jailer} {
		if from == "" {
			continue
		}
		if err := h.copyFile(from, to, 0o755); err != nil {
			return err
		}
	}
	return nil
}

// programVersion asks a binary for its version.
func programVersion(ctx context.Context, path string) (string, error) {
	words, err := doctor.AskVersion(ctx, path)
	if err != nil {
		return "", fmt.Errorf("ask it for its version: %w", err)
	}
	version := regexp.MustCompile(`\d+\.\d+\.\d+`).FindString(words)
	if version == "" {
		return "", fmt.Errorf("ask it for its version: it says %q", words[:min(len(words), 80)])
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
