package rootfs

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestWaitDevice(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if path, err := waitDevice(ctx, "null"); err != nil || path != "/dev/null" {
		t.Errorf("what is there: %q, %v", path, err)
	}
	if _, err := waitDevice(ctx, "nosuchdisk"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("what does not come: %v", err)
	}
	if _, err := waitDevice(ctx, "fd"); err == nil {
		t.Error("a directory is no disk")
	}
}

// A node without a device behind it, as a disk's is for a moment, is waited for.
func TestAwaitDriver(t *testing.T) {
	path := filepath.Join(t.TempDir(), "node")
	const nobody = 240 << 8 // the first of the majors for local use
	if err := unix.Mknod(path, unix.S_IFBLK|0o600, nobody); err != nil {
		t.Skipf("cannot make a device node: %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	err := awaitDriver(ctx, path)
	if errors.Is(err, os.ErrPermission) {
		t.Skipf("device nodes cannot be opened here: %v", err)
	}
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("got %v, want to wait until the context is done", err)
	}
	if err := awaitDriver(t.Context(), "/dev/null"); err != nil {
		t.Fatal(err)
	}
}

func TestGrowRefusesOtherFileSystems(t *testing.T) {
	if err := Grow("/proc"); !errors.Is(err, errors.ErrUnsupported) {
		t.Fatalf("got %v", err)
	}
}

// Only what is in memory is ever emptied.
func TestEmptyKeepsDisks(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	root, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	if err := empty(root); err != nil {
		t.Fatal(err)
	}
	memory, err := inMemory(root)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(file); memory == (err == nil) {
		t.Fatalf("in memory: %v, the file: %v", memory, err)
	}
}
