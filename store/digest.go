package store

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"sync"

	"golang.org/x/sys/unix"
)

// chunkBytes is how much of a file one digest of the tree is of.
const chunkBytes = 4 << 20

// Digest returns the SHA-256, in hex, of the SHA-256s of the chunks of f, which are
// 4 MiB long, the last one less. All processors work on it, and what is a hole is
// not read. The file must not be written meanwhile; its offset moves.
func Digest(ctx context.Context, f *os.File) (string, error) {
	info, err := f.Stat()
	if err != nil {
		return "", fmt.Errorf("digest %s: %w", f.Name(), err)
	}
	size := info.Size()
	sums := make([][sha256.Size]byte, (size+chunkBytes-1)/chunkBytes)
	errs := make([]error, runtime.GOMAXPROCS(0))
	var all sync.WaitGroup
	for i := range errs {
		all.Go(func() {
			buf := make([]byte, 256<<10)
			for n := i; n < len(sums) && errs[i] == nil; n += len(errs) {
				at := int64(n) * chunkBytes
				chunk := io.NewSectionReader(f, at, min(chunkBytes, size-at))
				if errs[i] = ctx.Err(); errs[i] == nil {
					sums[n], errs[i] = sumChunk(f, chunk, buf)
				}
			}
		})
	}
	all.Wait()
	if err := errors.Join(errs...); err != nil {
		return "", fmt.Errorf("digest %s: %w", f.Name(), err)
	}
	tree := sha256.New()
	for _, sum := range sums {
		tree.Write(sum[:])
	}
	return hex.EncodeToString(tree.Sum(nil)), nil
}

// sumChunk returns the digest of a chunk of f.
func sumChunk(f *os.File, chunk *io.SectionReader, buf []byte) (sum [sha256.Size]byte, err error) {
	_, at, bytes := chunk.Outer()
	if bytes == chunkBytes {
		// No data at all up to the end is ENXIO. Where the file system knows no
		// holes, data begins at once.
		data, err := unix.Seek(int(f.Fd()), at, unix.SEEK_DATA)
		if err == unix.ENXIO || err == nil && data >= at+bytes {
			return zeroSum(), nil
		}
	}
	h := sha256.New()
	n, err := io.CopyBuffer(h, struct{ io.Reader }{chunk}, buf)
	if err == nil && n != bytes {
		err = io.ErrUnexpectedEOF
	}
	h.Sum(sum[:0])
	return sum, err
}

// zeroSum is the digest of a chunk of zeros.
var zeroSum = sync.OnceValue(func() [sha256.Size]byte { return sha256.Sum256(make([]byte, chunkBytes)) })
