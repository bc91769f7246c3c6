package cli

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"banger/personas/api"
	"banger/store/kernel"
	"banger/testdata/assets"
)

func TestHostKernelIsWhereDistributionsPutIt(t *testing.T) {
	const release = "6.1.0-test"
	for name, c := range map[string]struct {
		files  []string
		want   string
		config string
	}{
		"Debian":           {[]string{"boot/vmlinuz-" + release, "boot/vmlinuz-5.0", "boot/vmlinux-" + release, "boot/config-" + release}, "boot/vmlinuz-" + release, "boot/config-" + release},
		"Fedora, Arch":     {[]string{"lib/modules/" + release + "/vmlinuz", "lib/modules/" + release + "/config"}, "lib/modules/" + release + "/vmlinuz", "lib/modules/" + release + "/config"},
		"not compressed":   {[]string{"boot/vmlinux-" + release, "boot/config-5.0"}, "boot/vmlinux-" + release, ""},
		"another's, alone": {[]string{"boot/vmlinuz-5.0"}, "boot/vmlinuz-" + release, ""}, // which is told to be missing
	} {
		root := t.TempDir()
		for _, f := range c.files {
			plant(t, filepath.Join(root, f), "kernel")
		}
		image, modules, config := hostKernel(root, release)
		if c.config != "" {
			c.config = filepath.Join(root, c.config)
		}
		if image != filepath.Join(root, c.want) || modules != filepath.Join(root, "lib/modules", release) || config != c.config {
			t.Errorf("%s: got %s, %s and %s", name, image, modules, config)
		}
	}
	if image, modules, config := hostKernel("", release); image != "/boot/vmlinuz-"+release || modules != "/lib/modules/"+release || config != "" {
		t.Errorf("of this host: %s, %s and %s", image, modules, config)
	}
}

// A whole host as Debian makes one, up to a kernel that guests boot.
func TestImportHostKernel(t *testing.T) {
	root := debianRoot(t) // of the cache in the real home, which the fake takes away
	d := newFake(t)
	d.root = root
	var info kernel.Info
	var err error
	d.take = func(req api.ImportRequest, files []*os.File) {
		info, err = importKernel(t, req, files)
	}
	got := d.call("kernel", "import", "--host", "--name", "host")
	if got.code != 0 || got.out != "host\n" || err != nil {
		t.Fatalf("exit %d, %q, %v", got.code, got.err, err)
	}
	if !info.BzImage || !info.Config || !strings.Contains(info.Release, "cloud") || len(info.Modules.Boot) == 0 || len(info.Missing) != 0 {
		t.Errorf("imported is %+v", info)
	}
	if req := d.request(); req.Release != running(t) || req.Source != d.root+"/boot/vmlinuz-"+running(t) {
		t.Errorf("the request was %+v", req)
	}
}

func TestHostKernelThatIsNotThere(t *testing.T) {
	d := newFake(t)
	d.root = t.TempDir()
	image := d.root + "/boot/vmlinuz-" + running(t)
	for _, c := range []struct{ plant, want string }{
		{"", "open " + image + ": no such file or directory"},
		{image, "modules: open " + d.root + "/lib/modules/" + running(t) + ": no such file or directory"},
	} {
		if c.plant != "" {
			plant(t, c.plant, "kernel")
		}
		got := d.call("kernel", "import", "--host")
		if got.code == 0 || !strings.Contains(got.err, c.want) || !strings.Contains(got.err, "import a kernel package instead") {
			t.Errorf("exit %d, %q; want %q", got.code, got.err, c.want)
		}
	}
	if log := d.log(); log != "" {
		t.Errorf("the daemon was asked: %s", log)
	}
}

// debianRoot unpacks Debian's kernel package as the kernel that runs here.
func debianRoot(t *testing.T) string {
	t.Helper()
	pkg := assets.File(t, "linux-image-cloud.deb")
	root := t.TempDir()
	if out, err := exec.Command("dpkg-deb", "-x", pkg, root).CombinedOutput(); err != nil {
		t.Skipf("dpkg-deb: %v\n%s", err, out)
	}
	modules := "/lib/modules/"
	if _, err := os.Stat(root + modules); err != nil {
		modules = "/usr/lib/modules/" // merged
	}
	for pattern, link := range map[string]string{
		root + "/boot/vmlinuz-*": root + "/boot/vmlinuz-" + running(t),
		root + "/boot/config-*":  root + "/boot/config-" + running(t),
		root + modules + "*":     root + "/lib/modules/" + running(t),
	} {
		found, err := filepath.Glob(pattern)
		if err != nil || len(found) != 1 {
			t.Fatalf("%s: %v, %v", pattern, found, err)
		}
		if err := os.MkdirAll(filepath.Dir(link), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(found[0], link); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

// importKernel does what bangerd does with what it gets.
func importKernel(t *testing.T, req api.ImportRequest, files []*os.File) (kernel.Info, error) {
	if len(files) != 3 {
		return kernel.Info{}, fmt.Errorf("%d files came", len(files))
	}
	modules, err := os.OpenRoot(fmt.Sprintf("/proc/self/fd/%d", files[1].Fd()))
	if err != nil {
		return kernel.Info{}, err
	}
	defer modules.Close()
	src := kernel.Source{Path: req.Source, File: files[0], Modules: req.Release, ModulesFS: modules.FS(), Config: files[2]}
	return kernel.Import(t.Context(), src, filepath.Join(t.TempDir(), "kernel"))
}

func running(t *testing.T) string {
	t.Helper()
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		t.Fatal(err)
	}
	return unix.ByteSliceToString(u.Release[:])
}

func plant(t *testing.T, path, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}
