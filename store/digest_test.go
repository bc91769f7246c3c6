package store

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
)

// TestDigest compares it with the digest's definition, over files with holes where
// chunks begin and end, and without any.
func TestDigest(t *testing.T) {
	random := make([]byte, 5)
	for i := range random {
		random[i] = byte(rand.N(256))
	}
	for name, c := range map[string]struct {
		size int64
		at   []int64 // where data is
	}{
		"empty":                  {0, nil},
		"one byte":               {1, []int64{0}},
		"one chunk":              {chunkBytes, []int64{chunkBytes - 5}},
		"a hole of less":         {chunkBytes - 1, nil},
		"a hole of one chunk":    {chunkBytes, nil},
		"a hole of one and more": {chunkBytes + 1, nil},
		"holes between":          {7*chunkBytes + 9, []int64{0, chunkBytes, 3*chunkBytes + 5000, 5*chunkBytes - 1}},
		"a hole at the end":      {9 * chunkBytes, []int64{chunkBytes - 3}},
	} {
		t.Run(name, func(t *testing.T) {
			f, err := os.Create(filepath.Join(t.TempDir(), "file"))
			must(t, err)
			defer f.Close()
			must(t, f.Truncate(c.size))
			for _, at := range c.at {
				_, err := f.WriteAt(random[:min(5, c.size-at)], at)
				must(t, err)
			}
			content, err := os.ReadFile(f.Name())
			must(t, err)
			got, err := Digest(t.Context(), f)
			must(t, err)
			if want := defined(content); got != want {
				t.Errorf("got %s, want %s", got, want)
			}

			full, err := os.Create(filepath.Join(t.TempDir(), "full"))
			must(t, err)
			defer full.Close()
			_, err = full.Write(content)
			must(t, err)
			if got, err := Digest(t.Context(), full); err != nil || got != defined(content) {
				t.Errorf("without holes: got %s, %v", got, err)
			}
		})
	}
}

func TestDigestEnds(t *testing.T) {
	f, err := os.Create(filepath.Join(t.TempDir(), "file"))
	must(t, err)
	defer f.Close()
	must(t, f.Truncate(1<<40))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Digest(ctx, f); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

func defined(content []byte) string {
	var sums bytes.Buffer
	for len(content) > 0 {
		n := min(chunkBytes, len(content))
		sum := sha256.Sum256(content[:n])
		sums.Write(sum[:])
		content = content[n:]
	}
	sum := sha256.Sum256(sums.Bytes())
	return hex.EncodeToString(sum[:])
}
