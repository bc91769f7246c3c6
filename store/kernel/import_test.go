package kernel_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"banger/store/kernel"
	"banger/store/kernel/kerneltest"
)

const (
	release = "6.1.0-test"
	version = release + " (builder@host) #1 SMP"
	moddir  = "lib/modules/" + release + "/"
)

// goodConfig has all that a guest needs, built in, but for ext4 and its friends.
const goodConfig = `CONFIG_BLK_DEV_INITRD=y
CONFIG_BINFMT_ELF=y
CONFIG_SERIAL_8250_CONSOLE=y
CONFIG_PROC_FS=y
CONFIG_SYSFS=y
CONFIG_TMPFS=y
CONFIG_DEVTMPFS=y
CONFIG_UNIX98_PTYS=y
CONFIG_FUTEX=y
CONFIG_EPOLL=y
CONFIG_UNIX=y
CONFIG_INET=y
CONFIG_ACPI=y
CONFIG_VIRTIO_MMIO=y
CONFIG_VIRTIO_BLK=y
CONFIG_VIRTIO_NET=m
CONFIG_VSOCKETS=y
CONFIG_VIRTIO_VSOCKETS=y
CONFIG_EXT4_FS=m
# CONFIG_OVERLAY_FS is not set
`

// sample is a kernel as a distribution would ship it, in parts that tests exchange.
type sample struct {
	image, config []byte
	modules       []kerneltest.File
}

func module(name, depends string, more ...string) kerneltest.File {
	info := append([]string{"depends=" + depends, "vermagic=" + release + " SMP mod_unload "}, more...)
	return kerneltest.File{Name: name, Data: kerneltest.Module(info...)}
}

func goodSample() sample {
	return sample{
		image:  kerneltest.BzImage(version, kerneltest.Gzip(kerneltest.Vmlinux(kerneltest.Machine, version, true, nil))),
		config: []byte(goodConfig),
		modules: []kerneltest.File{
			{Name: "modules.builtin", Data: []byte("kernel/drivers/virtio/virtio.ko\n")},
			module("kernel/drivers/net/virtio_net.ko", "net_failover,virtio"),
			module("kernel/drivers/net/net_failover.ko", ""),
			module("kernel/fs/ext4/ext4.ko", "jbd2", "softdep=pre: crc32c", "alias=fs-ext4"),
			module("kernel/fs/jbd2/jbd2.ko", "oddly_named"),
			// Not in the list of what is kept at first sight.
			module("kernel/lib/oddly-named.ko", ""),
			module("kernel/crypto/crc32c_generic.ko", "", "alias=crc32c"),
			module("kernel/net/bridge/bridge.ko", "stp", "alias=rtnl-link-bridge", "alias=devname:net/bridge", "alias=char-major-10-77"),
			module("kernel/net/802/stp.ko", ""),
			module("kernel/net/802/lame.ko", "gone"),
			module("kernel/sound/loud.ko", ""),
		},
	}
}

func (s sample) deb() []byte {
	files := []kerneltest.File{{Name: "boot/config-" + release, Data: s.config}, {Name: "boot/vmlinuz-" + release, Data: s.image}}
	for _, m := range s.modules {
		files = append(files, kerneltest.File{Name: moddir + m.Name, Data: m.Data})
	}
	return kerneltest.Deb(files...)
}

// write makes a file with data, and the directories above it.
func write(t testing.TB, name string, data []byte) string {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

// tree writes the modules below dir.
func (s sample) tree(t testing.TB, dir string) string {
	t.Helper()
	for _, m := range s.modules {
		write(t, filepath.Join(dir, m.Name), m.Data)
	}
	return dir
}

func files(t *testing.T, dir string) []string {
	t.Helper()
	var list []string
	err := fs.WalkDir(os.DirFS(dir), ".", func(name string, e fs.DirEntry, err error) error {
		if err == nil && !e.IsDir() {
			list = append(list, name)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(list)
	return list
}

func TestImport(t *testing.T) {
	dir := t.TempDir()
	dst := filepath.Join(dir, "kernel")
	info, err := kernel.Import(t.Context(), kernel.Source{Path: write(t, filepath.Join(dir, "k.deb"), goodSample().deb())}, dst)
	if err != nil {
		t.Fatal(err)
	}
	if info.Release != release || info.Version != version || info.Arch != "x86_64" || info.Source != "k.deb" ||
		info.Format != "deb" || info.Compression != "gzip" || !info.PVH || !info.BzImage || !info.Config {
		t.Errorf("got %+v", info)
	}
	wantBoot := []string{
		"kernel/drivers/net/net_failover.ko", "kernel/drivers/net/virtio_net.ko", "kernel/lib/oddly-named.ko",
		"kernel/fs/jbd2/jbd2.ko", "kernel/crypto/crc32c_generic.ko", "kernel/fs/ext4/ext4.ko",
	}
	if !slices.Equal(info.Modules.Boot, wantBoot) {
		t.Errorf("boot modules\n got %q\nwant %q", info.Modules.Boot, wantBoot)
	}
	wantExtra := []string{"kernel/net/802/stp.ko", "kernel/net/bridge/bridge.ko"}
	if !slices.Equal(info.Modules.Extra, wantExtra) || len(info.Modules.OnDemand) != 0 {
		t.Errorf("extra modules %q, on demand %q", info.Modules.Extra, info.Modules.OnDemand)
	}
	want := []string{"bzImage", "config", "modules.ext4", "modules/modules.dep", "vmlinux"}
	for _, m := range wantBoot {
		want = append(want, "modules/"+m)
	}
	slices.Sort(want)
	if got := files(t, dst); !slices.Equal(got, want) {
		t.Errorf("files\n got %q\nwant %q", got, want)
	}
	dep, err := os.ReadFile(filepath.Join(dst, "modules/modules.dep"))
	if err != nil {
		t.Fatal(err)
	}
	line := "kernel/fs/ext4/ext4.ko: kernel/crypto/crc32c_generic.ko kernel/fs/jbd2/jbd2.ko kernel/lib/oddly-named.ko\n"
	if !strings.Contains(string(dep), line) {
		t.Errorf("modules.dep lacks %q:\n%s", line, dep)
	}
	var missing []string
	for _, m := range info.Missing {
		missing = append(missing, m.Option)
	}
	if !slices.Contains(missing, "OVERLAY_FS") || slices.Contains(missing, "BRIDGE") {
		t.Errorf("missing options are %q", missing)
	}
	if got := files(t, dir); len(got) != len(want)+1 {
		t.Errorf("left behind: %q", got)
	}
}

// TestImportFromEverySource gives the same kernel in every shape, and wants the same
// digest back.
func TestImportFromEverySource(t *testing.T) {
	dir, s := t.TempDir(), goodSample()
	image := write(t, filepath.Join(dir, "vmlinuz"), s.image)
	elf := write(t, filepath.Join(dir, "vmlinux"), kerneltest.Vmlinux(kerneltest.Machine, version, true, nil))
	packed := goodSample()
	for i, m := range packed.modules {
		if strings.HasSuffix(m.Name, ".ko") {
			packed.modules[i] = kerneltest.File{Name: m.Name + ".gz", Data: kerneltest.Gzip(m.Data)}
		}
	}
	plainDir, packedDir := s.tree(t, filepath.Join(dir, "a", release)), packed.tree(t, filepath.Join(dir, "b", release))
	bare := s
	bare.modules = nil
	merged := []kerneltest.File{{Name: "boot/config-" + release, Data: s.config}, {Name: "boot/vmlinuz-" + release, Data: s.image}}
	for _, m := range s.modules {
		merged = append(merged, kerneltest.File{Name: "usr/" + moddir + m.Name, Data: m.Data})
	}
	digests := map[string]string{}
	for name, src := range map[string]kernel.Source{
		"deb":                    {Path: write(t, filepath.Join(dir, "k.deb"), s.deb())},
		"deb with merged usr":    {Path: write(t, filepath.Join(dir, "merged.deb"), kerneltest.Deb(merged...))},
		"bzImage and directory":  {Path: image, Modules: plainDir, ModulesFS: os.DirFS(plainDir), Config: bytes.NewReader(s.config)},
		"vmlinux and directory":  {Path: elf, Modules: plainDir, ModulesFS: os.DirFS(plainDir), Config: bytes.NewReader(s.config)},
		"compressed modules":     {Path: image, Modules: packedDir, ModulesFS: os.DirFS(packedDir), Config: bytes.NewReader(s.config)},
		"deb and more directory": {Path: write(t, filepath.Join(dir, "more.deb"), bare.deb()), Modules: plainDir, ModulesFS: os.DirFS(plainDir)},
	} {
		info, err := kernel.Import(t.Context(), src, filepath.Join(dir, "kernel-"+name))
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		digests[info.Digest] = name
	}
	if len(digests) != 1 {
		t.Errorf("digests differ: %v", digests)
	}
}

func TestImportWithEmbeddedConfig(t *testing.T) {
	dir, s := t.TempDir(), goodSample()
	extra := append(append([]byte("IKCFG_ST"), kerneltest.Gzip(s.config)...), "IKCFG_ED"...)
	elf := write(t, filepath.Join(dir, "vmlinux"), kerneltest.Vmlinux(kerneltest.Machine, version, false, extra))
	src := kernel.Source{Path: elf, Modules: release, ModulesFS: os.DirFS(s.tree(t, filepath.Join(dir, release)))}
	info, err := kernel.Import(t.Context(), src, filepath.Join(dir, "kernel"))
	if err != nil {
		t.Fatal(err)
	}
	if !info.Config || info.PVH || info.BzImage || len(info.Unknown) != 0 {
		t.Errorf("got %+v", info)
	}
}

// allBuiltin is the list of a kernel that has in itself what a guest must have.
const allBuiltin = "kernel/virtio.ko\nkernel/virtio_mmio.ko\nkernel/virtio_blk.ko\nkernel/vsock.ko\nkernel/vmw_vsock_virtio_transport.ko\n"

func TestImportWithoutConfig(t *testing.T) {
	dir, s := t.TempDir(), goodSample()
	s.modules[0].Data = []byte(allBuiltin)
	src := kernel.Source{Path: write(t, filepath.Join(dir, "vmlinuz"), s.image), Modules: release, ModulesFS: os.DirFS(s.tree(t, filepath.Join(dir, release)))}
	info, err := kernel.Import(t.Context(), src, filepath.Join(dir, "kernel"))
	if err != nil {
		t.Fatal(err)
	}
	if info.Config || !slices.Contains(info.Unknown, "DEVTMPFS") || slices.Contains(info.Unknown, "VIRTIO_BLK") {
		t.Errorf("got config %v, unknown %q", info.Config, info.Unknown)
	}
}

func TestImportRefuses(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(*sample)
		// raw, if set, is the file instead of a package of the sample.
		raw  func(sample) []byte
		want error
		text string
	}{
		{"option not set", func(s *sample) { s.without("CONFIG_VIRTIO_VSOCKETS=y") }, nil, kernel.ErrCannotBoot, "CONFIG_VIRTIO_VSOCKETS is missing (talking to the host)"},
		{"none of two options", func(s *sample) { s.without("CONFIG_ACPI=y") }, nil, kernel.ErrCannotBoot, "CONFIG_ACPI or CONFIG_VIRTIO_MMIO_CMDLINE_DEVICES"},
		{"two options not set", func(s *sample) { s.without("CONFIG_UNIX=y"); s.without("CONFIG_DEVTMPFS=y") }, nil, kernel.ErrCannotBoot, "CONFIG_DEVTMPFS is missing (/dev); CONFIG_UNIX is missing"},
		{"module not there", func(s *sample) { s.drop("ext4.ko") }, nil, kernel.ErrCannotBoot, "ext4.ko is not among the files"},
		{"dependency not there", func(s *sample) { s.drop("jbd2.ko") }, nil, kernel.ErrCannotBoot, "jbd2, needed by ext4"},
		{"modules of another kernel", func(s *sample) {
			s.modules = append(s.modules, kerneltest.File{Name: "kernel/net/802/garp.ko", Data: kerneltest.Module("depends=", "vermagic=5.10 SMP")})
		}, nil, kernel.ErrMismatch, `"5.10"`},
		{"module that needs too many", func(s *sample) {
			var names []string
			for i := range 300 {
				names = append(names, fmt.Sprint("m", i))
				s.modules = append(s.modules, module(fmt.Sprintf("kernel/net/802/m%d.ko", i), ""))
			}
			s.modules = append(s.modules, module("kernel/net/802/top.ko", strings.Join(names, ",")))
		}, nil, kernel.ErrMalformed, "more than 256 modules"},
		{"aliases without number", func(s *sample) {
			aliases := slices.Repeat([]string{"alias=a"}, 50_000)
			s.modules = append(s.modules, module("kernel/net/802/"+strings.Repeat("long", 50)+".ko", "", aliases...))
		}, nil, kernel.ErrMalformed, "index of its modules"},
		{"damaged module", func(s *sample) { s.modules[1].Data = s.modules[1].Data[:100] }, nil, kernel.ErrMalformed, "virtio_net.ko"},
		{"two module directories", func(s *sample) { s.modules[1].Name = "../6.2/kernel/x.ko" }, nil, kernel.ErrMismatch, "6.2"},
		{"empty config", func(s *sample) { s.config = []byte("# nothing\n") }, nil, kernel.ErrMalformed, "configuration"},
		{"arm64 in a package", func(s *sample) { s.image = kerneltest.Vmlinux(183, version, true, nil) }, nil, kernel.ErrArch, "arm64"},
		{"package in a package", func(s *sample) { s.image = kerneltest.Deb() }, nil, kernel.ErrNotKernel, "deb"},
		{"no kernel in the package", nil, func(sample) []byte { return kerneltest.Deb() }, kernel.ErrNotKernel, "no boot/vmlinuz"},
		{"text", nil, func(sample) []byte { return bytes.Repeat([]byte("text "), 1000) }, kernel.ErrNotKernel, "neither deb"},
		{"nothing", nil, func(sample) []byte { return nil }, kernel.ErrNotKernel, "neither deb"},
		{"package cut off", nil, func(s sample) []byte { d := s.deb(); return d[:len(d)*2/3] }, kernel.ErrMalformed, ""},
		{"bzImage cut off", nil, func(s sample) []byte { return s.image[:len(s.image)-50] }, kernel.ErrMalformed, "cut off"},
		{"vmlinux cut off", nil, func(s sample) []byte { return kerneltest.Vmlinux(kerneltest.Machine, version, true, nil)[:200] }, kernel.ErrMalformed, ""},
		{"kernel damaged in its image", nil, func(s sample) []byte { d := bytes.Clone(s.image); d[len(d)-60] ^= 0xff; return d }, kernel.ErrMalformed, "decompress kernel"},
		{"arm64 image", nil, func(sample) []byte { d := make([]byte, 4096); copy(d[0x38:], "ARM\x64"); return d }, kernel.ErrArch, "arm64"},
		{"release that is a path", nil, func(s sample) []byte {
			return bytes.Replace(s.image, []byte(version), []byte("6.1/../../x"+strings.Repeat(" ", len(version)-11)), 1)
		}, kernel.ErrMalformed, "release"},
		{"32-bit bzImage", nil, func(s sample) []byte { d := bytes.Clone(s.image); d[kerneltest.LoadFlagsAt] = 0; return d }, kernel.ErrArch, "64-bit"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := goodSample()
			if c.change != nil {
				c.change(&s)
			}
			data := s.deb
			if c.raw != nil {
				data = func() []byte { return c.raw(s) }
			}
			dir := t.TempDir()
			src := kernel.Source{Path: write(t, filepath.Join(dir, "k"), data())}
			_, err := kernel.Import(t.Context(), src, filepath.Join(dir, "kernel"))
			if !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.text) {
				t.Errorf("got error %v, want %v with %q", err, c.want, c.text)
			}
			if errors.Is(err, kernel.ErrCannotBoot) && c.text[:7] == "CONFIG_" {
				var missing *kernel.RequirementError
				if !errors.As(err, &missing) || len(missing.Missing) == 0 {
					t.Errorf("the error does not list what is missing: %v", err)
				}
			}
			if got := files(t, dir); len(got) != 1 {
				t.Errorf("left behind: %q", got)
			}
		})
	}
}

func (s *sample) without(line string) {
	s.config = []byte(strings.Replace(string(s.config), line+"\n", "", 1))
}

func (s *sample) drop(base string) {
	s.modules = slices.DeleteFunc(s.modules, func(f kerneltest.File) bool { return path.Base(f.Name) == base })
}

func TestImportLeavesWhatIsThere(t *testing.T) {
	dir := t.TempDir()
	src := kernel.Source{Path: write(t, filepath.Join(dir, "k.deb"), goodSample().deb())}
	write(t, filepath.Join(dir, "kernel", "mine"), []byte("precious"))
	if _, err := kernel.Import(t.Context(), src, filepath.Join(dir, "kernel")); !errors.Is(err, fs.ErrExist) {
		t.Errorf("got error %v, want %v", err, fs.ErrExist)
	}
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := kernel.Import(cancelled, src, filepath.Join(dir, "new")); !errors.Is(err, context.Canceled) || errors.Is(err, kernel.ErrMalformed) {
		t.Errorf("got error %v, want %v", err, context.Canceled)
	}
	if _, err := kernel.Import(t.Context(), kernel.Source{Path: filepath.Join(dir, "none")}, filepath.Join(dir, "new")); !errors.Is(err, fs.ErrNotExist) || errors.Is(err, kernel.ErrMalformed) {
		t.Errorf("got error %v, want %v", err, fs.ErrNotExist)
	}
	if _, err := kernel.Import(t.Context(), kernel.Source{Path: dir}, filepath.Join(dir, "new")); !errors.Is(err, kernel.ErrNotKernel) {
		t.Errorf("a directory as kernel: got error %v, want %v", err, kernel.ErrNotKernel)
	}
	pipe := filepath.Join(t.TempDir(), "pipe")
	if err := unix.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := kernel.Import(t.Context(), kernel.Source{Path: pipe}, filepath.Join(dir, "new")); !errors.Is(err, kernel.ErrNotKernel) {
		t.Errorf("a pipe as kernel: got error %v, want %v", err, kernel.ErrNotKernel)
	}
	if got := files(t, dir); !slices.Equal(got, []string{"k.deb", "kernel/mine"}) {
		t.Errorf("left behind: %q", got)
	}
}

// A distribution's kernel is often root's alone: whoever was given it open needs no name.
func TestImportOfOpenFiles(t *testing.T) {
	dir := t.TempDir()
	s := goodSample()
	s.modules[0].Data = []byte(allBuiltin)
	path := write(t, filepath.Join(dir, "vmlinuz"), s.image)
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.Seek(100, io.SeekStart); err != nil { // where it stands means nothing
		t.Fatal(err)
	}
	tree := s.tree(t, filepath.Join(dir, release))
	want, err := kernel.Import(t.Context(), kernel.Source{Path: path, Modules: tree, ModulesFS: os.DirFS(tree)}, filepath.Join(dir, "named"))
	if err != nil {
		t.Fatal(err)
	}
	root, err := os.OpenRoot(tree)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	src := kernel.Source{Path: "/boot/vmlinuz", File: f, Modules: "/lib/modules/" + release, ModulesFS: root.FS()}
	got, err := kernel.Import(t.Context(), src, filepath.Join(dir, "opened"))
	if err != nil {
		t.Fatal(err)
	}
	if got.Digest != want.Digest {
		t.Errorf("digest is %s by descriptor, %s by name", got.Digest, want.Digest)
	}
	if _, err := f.Stat(); err != nil {
		t.Errorf("the caller's file was closed: %v", err)
	}
}
