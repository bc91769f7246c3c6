package helper

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"banger/ops"
)

func digestOf(content string) string {
	sum := sha256.Sum256([]byte(content))
	return hex.EncodeToString(sum[:])
}

// source is a file with content, wherever it lies.
func source(t testing.TB, content string) *os.File {
	t.Helper()
	path := filepath.Join(t.TempDir(), "src")
	must(t, os.WriteFile(path, []byte(content), 0o600))
	return open(t, path, os.O_RDONLY)
}

func TestKernelIsKeptByDigest(t *testing.T) {
	k := &kernels{dir: t.TempDir()}
	digest := digestOf("kernel")
	if k.have(digest) {
		t.Fatal("there is a kernel that nobody put")
	}
	_, err := k.open(digest)
	wantCode(t, err, ops.NotFound)
	src := source(t, "kernel")
	_, err = src.Seek(3, io.SeekStart) // a position means nothing
	must(t, err)
	for range 2 { // twice is once
		must(t, k.put(t.Context(), digest, src))
	}
	f, err := k.open(digest)
	must(t, err)
	defer f.Close()
	got, err := io.ReadAll(f)
	must(t, err)
	if string(got) != "kernel" || !k.have(digest) {
		t.Errorf("kept %q", got)
	}
	if info, _ := f.Stat(); info.Mode().Perm() != 0o444 {
		t.Errorf("mode is %v", info.Mode())
	}
}

func TestKernelThatIsRefusedLeavesNothing(t *testing.T) {
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	for name, c := range map[string]struct {
		ctx    context.Context
		src    *os.File
		digest string
		want   error
	}{
		"other content": {t.Context(), source(t, "other"), digestOf("kernel"), &ops.Error{Code: ops.Invalid}},
		"cancelled":     {cancelled, source(t, "kernel"), digestOf("kernel"), context.Canceled},
	} {
		k := &kernels{dir: t.TempDir()}
		if err := k.put(c.ctx, c.digest, c.src); !errors.Is(err, c.want) {
			t.Errorf("%s: got %v, want %v", name, err, c.want)
		}
		if left := list(t, k.dir); len(left) > 0 {
			t.Errorf("%s: left %v", name, left)
		}
	}
}

// small mounts a small file system.
func small(t testing.TB, options string) string {
	t.Helper()
	needRoot(t)
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, options); err != nil {
		t.Skipf("needs to mount a tmpfs: %v", err)
	}
	t.Cleanup(func() { unix.Unmount(dir, unix.MNT_DETACH) })
	return dir
}

func TestKernelOnFullDisk(t *testing.T) {
	// Of room that there is, what is in reserve is others'.
	k := &kernels{dir: small(t, fmt.Sprint("size=", keepFree+64<<10))}
	content := strings.Repeat("k", 256<<10)
	err := k.put(t.Context(), digestOf(content), source(t, content))
	wantCode(t, err, ops.Limit)
	if refused := (*ops.Error)(nil); errors.As(err, &refused) && refused.HintText == "" {
		t.Errorf("no hint: %v", err)
	}
	if left := list(t, k.dir); len(left) > 0 {
		t.Errorf("left %v", left)
	}
	must(t, k.put(t.Context(), digestOf("small"), source(t, "small")))
	k.dir = small(t, "nr_inodes=1")
	wantCode(t, k.put(t.Context(), digestOf("small"), source(t, "small")), ops.Limit)
}

// A sparse file of a terabyte is refused before anything is written.
func TestKernelThatIsTooLarge(t *testing.T) {
	huge := filepath.Join(t.TempDir(), "huge")
	must(t, os.WriteFile(huge, nil, 0o600))
	must(t, os.Truncate(huge, 1<<40))
	k := &kernels{dir: filepath.Join(t.TempDir(), "none")} // where writing would fail otherwise
	wantCode(t, k.put(t.Context(), digestOf("huge"), open(t, huge, os.O_RDONLY)), ops.Limit)
}

func TestLeastRecentlyUsedKernelGoes(t *testing.T) {
	k := &kernels{dir: t.TempDir()}
	old := time.Now().Add(-time.Hour)
	for i := range maxKernels {
		content := fmt.Sprint("kernel ", i)
		must(t, k.put(t.Context(), digestOf(content), source(t, content)))
		at := old.Add(time.Duration(i) * time.Second)
		must(t, os.Chtimes(filepath.Join(k.dir, digestOf(content)), at, at))
	}
	f, err := k.open(digestOf("kernel 0")) // used, so it stays
	must(t, err)
	f.Close()
	must(t, k.put(t.Context(), digestOf("new"), source(t, "new")))
	if n := len(list(t, k.dir)); n != maxKernels {
		t.Errorf("%d kernels are kept, want %d", n, maxKernels)
	}
	for content, want := range map[string]bool{"kernel 0": true, "kernel 1": false, "kernel 2": true, "new": true} {
		if k.have(digestOf(content)) != want {
			t.Errorf("%s is kept: %t, want %t", content, !want, want)
		}
	}
}

// All together they are bounded, too; the last one stays.
func TestKernelsThatAreTooLargeTogether(t *testing.T) {
	k := &kernels{dir: t.TempDir()}
	old := time.Now().Add(-time.Hour)
	for i := range 9 { // sparse, and 9 GiB
		path := filepath.Join(k.dir, digestOf(fmt.Sprint(i)))
		must(t, os.WriteFile(path, nil, 0o444))
		must(t, os.Truncate(path, 1<<30))
		at := old.Add(time.Duration(i) * time.Second)
		must(t, os.Chtimes(path, at, at))
	}
	must(t, k.put(t.Context(), digestOf("new"), source(t, "new")))
	if n := len(list(t, k.dir)); n != 8 || !k.have(digestOf("new")) || !k.have(digestOf("8")) || k.have(digestOf("1")) {
		t.Errorf("%d are kept: %v", n, list(t, k.dir))
	}
}

// Of many that come at once, no two count on the same room.
func TestKernelsAtOnceShareTheRoom(t *testing.T) {
	content := strings.Repeat("k", 4<<20)
	k := &kernels{dir: small(t, fmt.Sprint("size=", keepFree+6<<20))}
	var wg sync.WaitGroup
	var kept atomic.Int32
	begin := make(chan struct{})
	for i := range 8 {
		own := fmt.Sprint(i, content)
		src := source(t, own)
		wg.Go(func() {
			<-begin
			if err := k.put(t.Context(), digestOf(own), src); err == nil {
				kept.Add(1)
			} else {
				wantCode(t, err, ops.Limit)
			}
		})
	}
	close(begin)
	wg.Wait()
	var st unix.Statfs_t
	must(t, unix.Statfs(k.dir, &st))
	if free := int64(st.Bavail) * st.Frsize; kept.Load() == 0 || free < keepFree {
		t.Errorf("%d kept, %d bytes free", kept.Load(), free)
	}
}

func TestUnfinishedKernelsAreRemoved(t *testing.T) {
	k := &kernels{dir: t.TempDir()}
	must(t, k.put(t.Context(), digestOf("kernel"), source(t, "kernel")))
	must(t, os.WriteFile(filepath.Join(k.dir, unfinished+"1"), []byte("half"), 0o600))
	must(t, k.removeUnfinished())
	if left := list(t, k.dir); len(left) != 1 || left[0] != digestOf("kernel") {
		t.Errorf("left %v", left)
	}
}
