package store

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"
)

func TestSeal(t *testing.T) {
	content := make([]byte, 3<<20)
	for name, c := range map[string]struct {
		do   func(path string, info os.FileInfo) error
		want error
	}{
		"untouched": {func(string, os.FileInfo) error { return nil }, nil},
		"touched":   {func(p string, _ os.FileInfo) error { return os.Chmod(p, 0o444) }, nil},
		"restored from a copy": {func(p string, i os.FileInfo) error {
			return errors.Join(os.WriteFile(p+".copy", content, 0o600), os.Chtimes(p+".copy", i.ModTime(), i.ModTime()), os.Rename(p+".copy", p))
		}, nil},
		"one byte, with its time set back": {func(p string, i os.FileInfo) error {
			return errors.Join(poke(p), os.Chtimes(p, i.ModTime(), i.ModTime()))
		}, ErrChanged},
		"longer":  {func(p string, _ os.FileInfo) error { return os.Truncate(p, 4<<20) }, ErrChanged},
		"shorter": {func(p string, _ os.FileInfo) error { return os.Truncate(p, 1<<20) }, ErrChanged},
		"replaced": {func(p string, i os.FileInfo) error {
			other := make([]byte, len(content))
			other[0] = 1
			return errors.Join(os.WriteFile(p+".other", other, 0o600), os.Chtimes(p+".other", i.ModTime(), i.ModTime()), os.Rename(p+".other", p))
		}, ErrChanged},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "file")
			must(t, os.WriteFile(path, content, 0o600))
			seal := sealed(t, path)
			info, err := os.Stat(path)
			must(t, err)
			time.Sleep(20 * time.Millisecond) // the kernel's times are as exact as its tick
			must(t, c.do(path, info))
			f, err := os.Open(path)
			must(t, err)
			defer f.Close()
			again, err := seal.Check(t.Context(), f)
			if !errors.Is(err, c.want) {
				t.Fatalf("got %v, want %v", err, c.want)
			}
			if c.want != nil {
				return
			}
			// The next look is one: it does not read.
			ended, cancel := context.WithCancel(t.Context())
			cancel()
			if _, err := again.Check(ended, f); err != nil {
				t.Errorf("second check: %v", err)
			}
		})
	}
}

// A seal of before there were trees of digests is good until it is renewed.
func TestSealOfOlderBanger(t *testing.T) {
	content := make([]byte, chunkBytes+1<<20)
	content[chunkBytes] = 1
	path := filepath.Join(t.TempDir(), "file")
	must(t, os.WriteFile(path, content, 0o600))
	seal := sealed(t, path)
	old := Seal{}
	must(t, json.Unmarshal(fmt.Appendf(nil, `{"bytes":%d,"inode":%d,"modified_ns":%d,"changed_ns":%d,"sha256":"%x"}`,
		seal.Bytes, seal.Inode, seal.ModifiedNs, seal.ChangedNs, sha256.Sum256(content)), &old))
	check := func() (Seal, error) {
		f, err := os.Open(path)
		must(t, err)
		defer f.Close()
		return old.Check(t.Context(), f)
	}
	if again, err := check(); err != nil || again != old {
		t.Errorf("untouched: %+v, %v", again, err)
	}
	must(t, os.Remove(path))
	must(t, os.WriteFile(path, content, 0o600))
	if again, err := check(); err != nil || again != sealed(t, path) {
		t.Errorf("restored from a copy: %+v, %v", again, err)
	}
	must(t, poke(path))
	if _, err := check(); !errors.Is(err, ErrChanged) {
		t.Errorf("one byte: got %v, want %v", err, ErrChanged)
	}
}

func sealed(t *testing.T, path string) Seal {
	t.Helper()
	f, err := os.Open(path)
	must(t, err)
	defer f.Close()
	s, err := SealFile(t.Context(), f)
	must(t, err)
	return s
}

// poke changes one byte.
func poke(path string) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteAt([]byte{1}, 2<<20)
	return errors.Join(err, f.Close())
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
