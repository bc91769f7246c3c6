package daemon

import (
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"banger/personas/api"
	"banger/personas/daemon/catalog"
)

// What no kernel leads to any more is not kept, and what one leads to is.
func TestInitrdsArePruned(t *testing.T) {
	i := &initrds{dir: t.TempDir(), made: make(map[string]string), open: func() (io.ReadCloser, int64, error) {
		return io.NopCloser(strings.NewReader("program")), 7, nil
	}}
	var kernels []catalog.Kernel
	list := func() []catalog.Kernel { return kernels }
	for name, digest := range map[string]string{"one": "sha256:1", "other": "sha256:2"} {
		kernels = append(kernels, catalog.Kernel{Kernel: api.Kernel{Name: name, Digest: digest}})
		link, err := i.linkLocked(digest)
		must(t, err)
		must(t, os.Symlink("made-for-"+name, link))
		i.made[digest] = "made-for-" + name
	}
	must(t, os.Symlink("of-another-build", filepath.Join(i.dir, "of-0000")))
	for _, name := range []string{"made-for-one", "made-for-other", "of-another-build", ".tmp-123"} {
		must(t, os.WriteFile(filepath.Join(i.dir, name), nil, 0o600))
	}
	left := func() (names []string) {
		entries, err := os.ReadDir(i.dir)
		must(t, err)
		for _, e := range entries {
			if !e.Type().IsRegular() {
				continue
			}
			names = append(names, e.Name())
		}
		if links := len(entries) - len(names); links != len(names) {
			t.Errorf("%d links to %v", links, names)
		}
		return names
	}
	must(t, i.prune(list))
	if got := left(); !slices.Equal(got, []string{"made-for-one", "made-for-other"}) {
		t.Errorf("left are %v", got)
	}
	kernels = slices.DeleteFunc(kernels, func(k catalog.Kernel) bool { return k.Name == "one" })
	must(t, i.prune(list))
	if got := left(); !slices.Equal(got, []string{"made-for-other"}) || len(i.made) != 1 {
		t.Errorf("left are %v, remembered %v", got, i.made)
	}
}
