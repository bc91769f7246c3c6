package guest

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"banger/personas/guest/link"
)

// What a boot hangs at is what its host hears; one that is over says nothing more.
func TestWatch(t *testing.T) {
	for _, test := range []struct {
		name     string
		patience time.Duration // of the host
		boot     func(*watch)
		hears    string
	}{
		{"hangs", 20 * time.Second, func(w *watch) {
			w.at("ask the host")
			w.step("bring up the network")()
			w.step("load modules")
			w.at("mount the disk")
		}, "still at: mount the disk, load modules"},
		{"is over", time.Second, func(w *watch) { w.at("mount the disk"); w.end() }, "EOF"},
	} {
		t.Run(test.name, func(t *testing.T) {
			ours, theirs := net.Pipe()
			defer theirs.Close()
			var w watch
			w.tell(newHost(ours, nil))
			w.begin(300 * time.Millisecond)
			test.boot(&w)
			closing := time.AfterFunc(test.patience, func() { ours.Close() })
			defer closing.Stop()
			_, err := link.ReadReady(context.Background(), theirs)
			if err == nil || !strings.Contains(err.Error(), test.hears) {
				t.Errorf("the host hears %v, want %q", err, test.hears)
			}
		})
	}
}

func TestWaits(t *testing.T) {
	dir := t.TempDir()
	for task, files := range map[string][2]string{
		"1": {"1 (a) D b) S 0", "[<0>] ep_poll"},
		"7": {"7 (mount) D 1 7", "[<0>] io_schedule+0x42/0x70\n[<0>] ext4_fill_super+0x1/0x2\n"},
	} {
		for i, name := range []string{"stat", "stack"} {
			if err := os.MkdirAll(filepath.Join(dir, task), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(dir, task, name), []byte(files[i]), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	const want = "; thread 7 is in the kernel: [<0>] io_schedule+0x42/0x70 [<0>] ext4_fill_super+0x1/0x2"
	if got := waits(dir); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}
