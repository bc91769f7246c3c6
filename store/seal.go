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
	TreeSHA256 string `json:"tree_sha256"` // what Digest returns

	// SHA256 is that of the whole file, in hex, in seals that an older banger has made,
	// which have no other digest.
	SHA256 string `json:"sha256,omitempty"`
}

// SealFile reads f and seals it.
func SealFile(ctx context.Context, f *os.File) (Seal, error) {
	s, err := look(f)
	if err != nil {
		return Seal{}, err
	}
	if s.TreeSHA256, err = Digest(ctx, f); err != nil {
		return Seal{}, err
	}
	if after, err := look(f); err != nil || !after.looksLike(s) {
		return Seal{}, errors.Join(err, fmt.Errorf("seal %s: %w meanwhile", f.Name(), ErrChanged))
	}
	return s, nil
}

// SealWith seals f, of which Digest has returned digest and which nobody has
// written since.
func SealWith(f *os.File, digest string) (Seal, error) {
	s, err := look(f)
	s.TreeSHA256 = digest
	return s, err
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
	got, want := now.TreeSHA256, s.TreeSHA256
	if want == "" {
		want = s.SHA256
		if got, err = now.sumWhole(ctx, f); err != nil {
			return s, err
		}
	}
	if got != want {
		return s, fmt.Errorf("check %s: %w: its digest is %s, not %s", f.Name(), ErrChanged, got, want)
	}
	return now, nil
}

// sumWhole returns the SHA-256, in hex, of what s was made of and f still is.
func (s Seal) sumWhole(ctx context.Context, f *os.File) (string, error) {
	h, r := sha256.New(), io.NewSectionReader(f, 0, s.Bytes)
	for more := true; more; {
		if err := ctx.Err(); err != nil {
			return "", err
		}
		n, err := io.CopyN(h, r, chunkBytes)
		if err != nil && err != io.EOF {
			return "", err
		}
		more = n == chunkBytes
	}
	if now, err := look(f); err != nil || !now.looksLike(s) {
		return "", errors.Join(err, fmt.Errorf("check %s: %w meanwhile", f.Name(), ErrChanged))
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// looksLike compares everything but the digests.
func (s Seal) looksLike(o Seal) bool {
	s.TreeSHA256, s.SHA256 = o.TreeSHA256, o.SHA256
	return s == o
}

func look(f *os.File) (Seal, error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return Seal{}, fmt.Errorf("look at %s: %w", f.Name(), err)
	}
	return Seal{Bytes: st.Size, Inode: st.Ino, ModifiedNs: st.Mtim.Nano(), ChangedNs: st.Ctim.Nano()}, nil
}
