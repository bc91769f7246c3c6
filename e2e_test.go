package main_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"banger/testdata/assets"
	"banger/testdata/host"
)

func TestMain(m *testing.M) {
	host.Main()
	for name, act := range map[string]func(string) int{bringUpEnv: bringUp, deafEnv: serveDeaf, giveEnv: give} {
		if arg := os.Getenv(name); arg != "" {
			os.Exit(act(arg))
		}
	}
	dir, err := os.MkdirTemp("", "banger-e2e-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	scratch = dir
	code := m.Run()
	os.RemoveAll(dir)
	os.Exit(code)
}

// scratch is a directory that lives as long as the test program.
var scratch string

// buildBanger builds the binary once for all tests, as it is shipped, and returns
// its path.
var buildBanger = sync.OnceValues(func() (string, error) {
	generate := exec.Command("go", "generate", "./personas/guest/binary")
	generate.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := generate.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build the guest's binary: %w\n%s", err, out)
	}
	return build("banger", ".", "-tags", "embedguest")
})

// build builds a package of the module into the scratch directory, without what
// only a debugger wants.
func build(name, pkg string, flags ...string) (string, error) {
	file := filepath.Join(scratch, name)
	args := append([]string{"build", "-trimpath", "-buildvcs=false", "-ldflags", "-s -w", "-o", file}, flags...)
	cmd := exec.Command("go", append(args, pkg)...)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build %s: %w\n%s", pkg, err, out)
	}
	return file, os.Chmod(scratch, 0o755)
}

func banger(t testing.TB) string {
	t.Helper()
	file, err := buildBanger()
	if err != nil {
		t.Fatal(err)
	}
	return file
}

// newHost makes a host where nothing of banger's is, and whose end must be the
// same again, save for what is in banger's catalogue.
func newHost(t testing.TB, config host.Config) *host.Host {
	t.Helper()
	host.Require(t)
	config.Banger = banger(t)
	h := host.New(t, config)
	before := h.Look()
	t.Cleanup(func() {
		if t.Failed() {
			tellLogs(t, h)
			return
		}
		h.StopDaemons()
		if diff := host.Difference(before, h.Look()); len(diff) > 0 {
			t.Errorf("the host is not as it was before:\n%s", strings.Join(diff, "\n"))
		}
	})
	return h
}

// bootHost makes a host with Debian's cloud kernel and the smallest Debian in
// the catalogue of plain root. At the test's end no VM is left and banger's
// own inventory is what it was before the first VM.
func bootHost(t testing.TB) *host.Host {
	t.Helper()
	h := newHost(t, host.Config{Seed: seed(t)})
	h.Must(host.Root, "banger", "image", "list")
	before := h.Inventory(host.Root)
	t.Cleanup(func() {
		if t.Failed() {
			return
		}
		if left := h.Must(host.Root, "banger", "vm", "list", "--output", "json"); left != "[]" {
			t.Errorf("VMs are left: %s", left)
		}
		if diff := host.Difference(before, h.Inventory(host.Root)); len(diff) > 0 {
			t.Errorf("the inventory is not as it was before:\n%s", strings.Join(diff, "\n"))
		}
	})
	return h
}

var seedMu sync.Mutex

// seed returns a state directory with Debian's cloud kernel and the smallest
// Debian in the catalogue. The first test that needs it makes it.
func seed(t testing.TB) string {
	t.Helper()
	seedMu.Lock()
	defer seedMu.Unlock()
	dir := filepath.Join(scratch, "seed")
	if _, err := os.Stat(dir); err == nil {
		return dir
	}
	kernel, image := assets.File(t, "linux-image-cloud.deb"), assets.File(t, "debian.tar")
	h := newHost(t, host.Config{})
	h.Must(host.Root, "banger", "kernel", "import", "--name", "debian", kernel)
	h.Must(host.Root, "banger", "image", "import", "--name", "debian", image)
	h.StopDaemons()
	if err := h.Save(dir); err != nil {
		os.RemoveAll(dir)
		t.Fatalf("save seed: %v", err)
	}
	return dir
}

// tellLogs puts the last lines of the daemons' logs into the test's.
func tellLogs(t testing.TB, h *host.Host) {
	for _, name := range []string{"/run/banger/bangerd.log", "/run/banger-helper/helper.log"} {
		b, err := os.ReadFile(h.Path(name))
		if err != nil {
			continue
		}
		lines := strings.Split(strings.TrimSpace(string(b)), "\n")
		t.Logf("%s:\n%s", name, strings.Join(lines[max(0, len(lines)-30):], "\n"))
	}
}
