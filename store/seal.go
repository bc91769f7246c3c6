package store

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// ErrChanged means that a file is not what it was when it was sealed.
var ErrChanged = errors.New("file was changed")

// Seal is what a file is known again by. To look at it costs nothing as long as
// nobody touches the file: content changes no byte of which the kernel does not
// note the time. A file that was touched, or copied back from a backup, is told by
// its digest.
type Seal struct {
	Bytes      int64  `json:"bytes"`
	Inode      uint64 `json:"inode"`
	ModifiedNs int64  `json:"modified_ns"` // since 1970, as all times here
	ChangedNs  int64  `json:"changed_ns"`  // which nobody but the kernel sets
	SHA256     string `json:"sha256"`      // in hex
}

// SealFile reads f and seals it.
func SealFile(ctx context.Context, f *os.File) (Seal, error) {
	s, err := look(f)
	if err != nil {
		return Seal{}, err
	}
	if s.SHA256, err = digest(ctx, f); err != nil {
		return Seal{}, err
	}
	if after, err := look(f); err != nil || !after.looksLike(s) {
		return Seal{}, errors.Join(err, fmt.Errorf("seal %s: %w meanwhile", f.Name(), ErrChanged))
	}
	return s, nil
}

// Check returns ErrChanged if f is not what was sealed. Else it returns the seal
// as it is now, with which the next look costs nothing again.
func (s Seal) Check(ctx context.Context, f *os.File) (Seal, error) {
	now, err := look(f)
	switch {
	case err != nil:
		return s, err
	case now.looksLike(s):
		return s, nil
	case now.Bytes != s.Bytes:
		return s, fmt.Errorf("check %s: %w: %d bytes, not %d", f.Name(), ErrChanged, now.Bytes, s.Bytes)
	}
	if now, err = SealFile(ctx, f); err != nil {
		return s, err
	}
	if now.SHA256 != s.SHA256 {
		return s, fmt.Errorf("check %s: %w: its digest is %s, not %s", f.Name(), ErrChanged, now.SHA256, s.SHA256)
	}
	return now, nil
}

// looksLike compares everything but the digests.
func (s Seal) looksLike(o Seal) bool {
	s.SHA256 = o.SHA256
	return s == o
}

func look(f *os.File) (Seal, error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return Seal{}, fmt.Errorf("look at %s: %w", f.Name(), err)
	}
	return Seal{Bytes: st.Size, Inode: st.Ino, ModifiedNs: st.Mtim.Nano(), ChangedNs: st.Ctim.Nano()}, nil
}

func digest(ctx context.Context, f *os.File) (string, error) {
	sum, buf := sha256.New(), make([]byte, 1<<20)
	for at := int64(0); ; {
		if err := ctx.Err(); err != nil {
			return "", err
		}
		n, err := f.ReadAt(buf, at)
		sum.Write(buf[:n])
		at += int64(n)
		if err == io.EOF {
			return hex.EncodeToString(sum.Sum(nil)), nil
		}
		if err != nil {
			return "", fmt.Errorf("read %s: %w", f.Name(), err)
		}
	}
}
