package kernel_test

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"banger/store/ext4/ext4test"
	"banger/store/kernel"
	"banger/store/kernel/modules"
)

// unpackDrive unpacks a kernel's drive to where a guest mounts it, below the
// directory that it returns.
func unpackDrive(t *testing.T, kernelDir, release string) (base string) {
	t.Helper()
	if _, err := exec.LookPath("debugfs"); err != nil {
		t.Skip("needs debugfs")
	}
	base = t.TempDir()
	dir := filepath.Join(base, "lib/modules", release, "banger")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	drive := filepath.Join(kernelDir, kernel.DriveFile)
	if out, err := exec.Command("debugfs", "-R", "rdump / "+dir, drive).CombinedOutput(); err != nil {
		t.Fatalf("debugfs: %v\n%s", err, out)
	}
	texts, err := filepath.Glob(filepath.Join(dir, "modules.*"))
	if err != nil || len(texts) == 0 {
		t.Fatalf("no index on the drive: %v", err)
	}
	for _, f := range texts {
		name := filepath.Base(f)
		if err := os.Symlink(filepath.Join("banger", name), filepath.Join(filepath.Dir(dir), name)); err != nil {
			t.Fatal(err)
		}
	}
	return base
}

func TestDrive(t *testing.T) {
	dir := t.TempDir()
	var drives [2][]byte
	var kernelDir string
	for i := range drives {
		kernelDir = filepath.Join(dir, "kernel"+string(rune('0'+i)))
		src := kernel.Source{Path: write(t, filepath.Join(dir, "k.deb"), goodSample().deb())}
		if _, err := kernel.Import(t.Context(), src, kernelDir); err != nil {
			t.Fatal(err)
		}
		var err error
		if drives[i], err = os.ReadFile(filepath.Join(kernelDir, kernel.DriveFile)); err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(drives[0], drives[1]) {
		t.Error("the same modules give another drive")
	}
	drive := filepath.Join(kernelDir, kernel.DriveFile)
	if info, err := os.Stat(drive); err != nil || info.Mode() != 0o444 || info.Size()%4096 != 0 {
		t.Errorf("got %v, %v", info.Mode(), err)
	}
	ext4test.Check(t, drive)
	root := filepath.Join(unpackDrive(t, kernelDir, release), "lib/modules", release)
	for name, want := range map[string]string{
		"modules.dep":              "banger/kernel/fs/ext4/ext4.ko: banger/kernel/crypto/crc32c_generic.ko banger/kernel/fs/jbd2/jbd2.ko banger/kernel/lib/oddly-named.ko\n",
		"modules.alias":            "alias rtnl-link-bridge bridge\n",
		"modules.softdep":          "softdep ext4 pre: crc32c\n",
		"modules.builtin":          "kernel/drivers/virtio/virtio.ko\n",
		"modules.devname":          "bridge net/bridge c10:77\n",
		"banger/kernel/802/x":      "",
		"banger/kernel/net/802/x":  "",
		"banger/kernel/sound/loud": "",
	} {
		text, err := os.ReadFile(filepath.Join(root, name))
		if (err == nil) != (want != "") || !strings.Contains(string(text), want) {
			t.Errorf("%s is %q, error %v", name, text, err)
		}
	}
	if _, err := os.Stat(filepath.Join(root, "banger/kernel/net/bridge/bridge.ko")); err != nil {
		t.Error(err)
	}
}

// modprobe asks kmod's own what it makes of the modules below base.
func modprobe(t *testing.T, base, release string, args ...string) (string, error) {
	t.Helper()
	path, err := exec.LookPath("modprobe")
	if err != nil {
		t.Skip("needs modprobe")
	}
	if target, err := filepath.EvalSymlinks(path); err != nil || filepath.Base(target) != "kmod" {
		t.Skip("needs kmod's modprobe")
	}
	out, err := exec.Command(path, append([]string{"-C", "/nowhere", "-d", base, "-S", release}, args...)...).CombinedOutput()
	return strings.TrimSpace(string(out)), err
}

// TestDriveOfDebian wants kmod to find, by the index on the drive, the modules that
// it finds by depmod's index of the same modules.
func TestDriveOfDebian(t *testing.T) {
	depmod, err := exec.LookPath("depmod")
	if err != nil {
		t.Skip("needs depmod")
	}
	dir, info := imported(t, "cloud")
	ours, theirs := unpackDrive(t, dir, info.Release), unpackDrive(t, dir, info.Release)
	t.Logf("%d modules on a drive of %d KiB", len(info.Modules.Boot)+len(info.Modules.OnDemand)+len(info.Modules.Extra), blocks(t, filepath.Join(dir, kernel.DriveFile))/2)
	root := filepath.Join(theirs, "lib/modules", info.Release)
	if err := os.Remove(filepath.Join(root, "modules.builtin")); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(filepath.Join(root, "banger", "modules.builtin"), filepath.Join(root, "modules.builtin")); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(depmod, "-b", theirs, info.Release).CombinedOutput(); err != nil {
		t.Fatalf("depmod: %v\n%s", err, out)
	}
	names := []string{
		"fs-overlay", "fs-fuse", "rtnl-link-bridge", "rtnl-link-veth", "rtnl-link-wireguard", "net-pf-16-proto-12", "nft-expr-1-ct",
		"nft-chain-2-nat", "nft-expr-nat", "ip6table_filter", "ipt_MASQUERADE", "char-major-10-229", "devname:net/tun", "nf-nat",
		"binfmt-misc", "virtio:d00000001v00000000", "ext4", "virtio_pci", "nothing-of-that-name", "symbol:nothing",
	}
	for i, p := range slices.Concat(info.Modules.Boot, info.Modules.OnDemand, info.Modules.Extra) {
		if i%12 == 0 { // all of them take half a minute
			names = append(names, modules.NameOf(p))
		}
	}
	for _, name := range names {
		got, gerr := modprobe(t, ours, info.Release, "-R", name)
		want, werr := modprobe(t, theirs, info.Release, "-R", name)
		if strings.ReplaceAll(got, ours, theirs) != want || (gerr == nil) != (werr == nil) {
			t.Errorf("%s leads to %q, %v; depmod says %q, %v", name, got, gerr, want, werr)
		}
		got, gerr = modprobe(t, ours, info.Release, "--show-depends", name)
		want, werr = modprobe(t, theirs, info.Release, "--show-depends", name)
		if g, w := strings.Split(strings.ReplaceAll(got, ours, theirs), "\n"), strings.Split(want, "\n"); !covers(g, w) || (gerr == nil) != (werr == nil) {
			t.Errorf("%s takes %q, %v; depmod says %q, %v", name, g, gerr, w, werr)
		}
	}
}

// covers reports whether a ends like b and has all of it: soft dependencies stand
// among the others in our index.
func covers(a, b []string) bool {
	for _, x := range b {
		if !slices.Contains(a, x) {
			return false
		}
	}
	return a[len(a)-1] == b[len(b)-1]
}

// blocks is how much of a file is on the disk, in sectors of 512 bytes.
func blocks(t *testing.T, path string) int64 {
	t.Helper()
	out, err := exec.Command("du", "-B", "512", path).Output()
	if err != nil {
		t.Fatal(err)
	}
	var n int64
	for _, c := range out {
		if c < '0' || c > '9' {
			break
		}
		n = 10*n + int64(c-'0')
	}
	return n
}
