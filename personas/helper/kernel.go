package helper

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sort"
	"time"

	"golang.org/x/sys/unix"

	"banger/ops"
)

// Bounds of the kernels that are kept.
const (
	maxKernelBytes = 1 << 30
	maxKernels     = 64 // the least recently used go first
)

// kernels keeps kernels and initrds by digest, in a folder that is root's: what
// a VM boots cannot change under it, and needs no check when it starts.
type kernels struct{ dir string }

// open returns the content with this digest for reading.
func (k *kernels) open(digest string) (*os.File, error) {
	path := filepath.Join(k.dir, digest)
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, &ops.Error{Code: ops.NotFound, Message: "no kernel or initrd with digest " + digest}
	}
	if err != nil {
		return nil, fmt.Errorf("open kernel: %w", err)
	}
	now := time.Now()
	if err := os.Chtimes(path, now, now); err != nil { // for prune
		f.Close()
		return nil, fmt.Errorf("open kernel: %w", err)
	}
	return f, nil
}

func (k *kernels) have(digest string) bool {
	_, err := os.Stat(filepath.Join(k.dir, digest))
	return err == nil
}

// unfinished begins the names of files that put has not published yet.
const unfinished = ".tmp-"

// removeUnfinished removes what a crash in the midst of put left. Nobody may be
// putting anything meanwhile.
func (k *kernels) removeUnfinished() error {
	left, err := filepath.Glob(filepath.Join(k.dir, unfinished+"*"))
	if err != nil {
		return err
	}
	for _, path := range left {
		if err := os.Remove(path); err != nil {
			return fmt.Errorf("remove unfinished kernel: %w", err)
		}
	}
	return nil
}

// put copies src to where open finds it, if src has this digest.
func (k *kernels) put(ctx context.Context, digest string, src *os.File) (err error) {
	tooLarge := &ops.Error{Code: ops.Limit, Message: "keep kernel: larger than 1 GiB"}
	if info, err := src.Stat(); err != nil {
		return fmt.Errorf("keep kernel: %w", err)
	} else if info.Size() > maxKernelBytes {
		return tooLarge // before anything is written
	}
	tmp, err := os.CreateTemp(k.dir, unfinished)
	defer func() {
		var refused *ops.Error
		switch {
		case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT):
			err = &ops.Error{Code: ops.Limit, Message: "keep kernel: no space in " + k.dir}
		case err != nil && !errors.As(err, &refused):
			err = fmt.Errorf("keep kernel: %w", err)
		}
	}()
	if err != nil {
		return err
	}
	defer func() {
		tmp.Close()
		if err != nil {
			os.Remove(tmp.Name())
		}
	}()
	sum := sha256.New()
	in := contextReader{ctx, io.NewSectionReader(src, 0, maxKernelBytes+1)}
	n, err := io.Copy(io.MultiWriter(tmp, sum), in)
	if err != nil {
		return err
	}
	if n > maxKernelBytes {
		return tooLarge // it has grown
	}
	if got := hex.EncodeToString(sum.Sum(nil)); got != digest {
		return &ops.Error{Code: ops.Invalid, Message: "keep kernel: content has digest " + got + ", not " + digest}
	}
	if err := tmp.Chmod(0o444); err != nil {
		return err
	}
	if err := tmp.Sync(); err != nil {
		return err
	}
	// What is there stays: a VM that starts right now has it open, and a file
	// without a name cannot be mounted into its jail.
	err = unix.Renameat2(unix.AT_FDCWD, tmp.Name(), unix.AT_FDCWD, filepath.Join(k.dir, digest), unix.RENAME_NOREPLACE)
	if errors.Is(err, unix.EEXIST) {
		return os.Remove(tmp.Name())
	}
	if err != nil {
		return err
	}
	return k.prune()
}

// prune keeps the number of files bounded. A VM that runs has its kernel open
// and loses nothing; one that starts asks the daemon to put it again.
func (k *kernels) prune() error {
	entries, err := os.ReadDir(k.dir)
	if err != nil {
		return fmt.Errorf("prune kernels: %w", err)
	}
	var infos []fs.FileInfo
	for _, e := range entries {
		info, err := e.Info()
		if err == nil && e.Name()[0] != '.' {
			infos = append(infos, info)
		}
	}
	sort.Slice(infos, func(i, j int) bool { return infos[i].ModTime().After(infos[j].ModTime()) })
	var errs []error
	for _, info := range infos[min(len(infos), maxKernels):] {
		errs = append(errs, os.Remove(filepath.Join(k.dir, info.Name())))
	}
	return errors.Join(errs...)
}

// contextReader ends a copy when its context ends.
type contextReader struct {
	ctx context.Context
	r   io.Reader
}

func (c contextReader) Read(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	return c.r.Read(p)
}
