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
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"banger/ops"
)

// Bounds of the kernels that are kept.
const (
	maxKernelBytes = 1 << 30
	maxKernels     = 64      // the least recently used go first
	maxKeptBytes   = 8 << 30 // of all together; they go likewise
	// keepFree stays free on the file system, as it does where disks are made. Root
	// meets neither a quota nor the blocks that are kept for it.
	keepFree = 256 << 20
)

// kernels keeps kernels and initrds by digest, in a folder that is root's: what
// a VM boots cannot change under it, and needs no check when it starts.
type kernels struct {
	dir string

	// putting is held over a put, so that no two count on the same room.
	putting sync.Mutex
}

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
	info, err := src.Stat()
	if err != nil {
		return fmt.Errorf("keep kernel: %w", err)
	}
	if info.Size() > maxKernelBytes {
		return tooLarge // before anything is written
	}
	k.putting.Lock()
	defer k.putting.Unlock()
	if k.have(digest) {
		return nil // somebody was putting it
	}
	if err := k.checkRoom(info.Size()); err != nil {
		return err
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
	in := contextReader{ctx, io.NewSectionReader(src, 0, info.Size())} // more has no room, if it grows
	if _, err := io.Copy(io.MultiWriter(tmp, sum), in); err != nil {
		return err
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

// checkRoom refuses what would leave less than keepFree to others.
func (k *kernels) checkRoom(bytes int64) error {
	var st unix.Statfs_t
	if err := unix.Statfs(k.dir, &st); err != nil {
		return fmt.Errorf("keep kernel: look for room in %s: %w", k.dir, err)
	}
	if free := int64(st.Bavail) * st.Frsize; free-bytes < keepFree {
		return &ops.Error{
			Code: ops.Limit, Message: fmt.Sprintf("keep kernel: no space in %s: %d MiB free, %d needed, %d to be kept in reserve", k.dir, free>>20, bytes>>20, keepFree>>20),
			HintText: "make room on that file system",
		}
	}
	return nil
}

// prune keeps the number and the size of all files bounded. A VM that runs has its kernel open
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
	var kept int64
	for i, info := range infos {
		if kept += info.Size(); i >= maxKernels || kept > maxKeptBytes {
			errs = append(errs, os.Remove(filepath.Join(k.dir, info.Name())))
		}
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
