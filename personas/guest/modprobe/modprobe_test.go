package modprobe

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

const depTable = `banger/kernel/fs/overlayfs/overlay.ko:
kernel/fs/ext4/ext4.ko: kernel/fs/jbd2/jbd2.ko kernel/fs/mbcache.ko kernel/lib/crc16.ko
kernel/fs/myext4.ko: kernel/x.ko
kernel/drivers/char/virtio-rng.ko:
`

func TestDependencies(t *testing.T) {
	for name, want := range map[string][]string{
		"overlay":    {"banger/kernel/fs/overlayfs/overlay.ko"},
		"ext4":       {"kernel/lib/crc16.ko", "kernel/fs/mbcache.ko", "kernel/fs/jbd2/jbd2.ko", "kernel/fs/ext4/ext4.ko"},
		"virtio_rng": {"kernel/drivers/char/virtio-rng.ko"},
		"virtio-rng": {"kernel/drivers/char/virtio-rng.ko"},
		"xfs":        nil,
	} {
		if got := Dependencies(depTable, name); !slices.Equal(got, want) {
			t.Errorf("%s: got %q, want %q", name, got, want)
		}
	}
}

func TestAliased(t *testing.T) {
	const table = `# Aliases
alias fs-overlay overlay
alias net-pf-16-proto-12 nfnetlink
alias virtio:d00000001v* virtio_net
alias pci:v00001AF4d*sv*[0-9a] virtio_pci
alias two a
alias two b
alias two a
alias broken[ c
alias short
alias crypto-crc32c crc32c_generic
`
	for name, want := range map[string][]string{
		"fs-overlay":                 {"overlay"},
		"fs_overlay":                 {"overlay"},
		"net-pf-16-proto-12":         {"nfnetlink"},
		"net-pf-16-proto-1":          nil,
		"virtio:d00000001v00000042":  {"virtio_net"},
		"pci:v00001AF4d00001sv0000a": {"virtio_pci"},
		"pci:v00001AF4d00001sv0000b": nil,
		"two":                        {"a", "b"},
		"broken[":                    nil,
		"short":                      nil,
		"":                           nil,
	} {
		if got := aliased(table, name); !slices.Equal(got, want) {
			t.Errorf("%s: got %q, want %q", name, got, want)
		}
	}
}

// What a file is, the kernel says; here it is only whether the right ones are tried.
func TestLoad(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{
		"modules.dep": "banger/a.ko: banger/gone.ko\n", "modules.alias": "alias fs-a a\nalias fs-b b\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for name, want := range map[string]string{
		"a": filepath.Join(dir, "banger/gone.ko"), "fs-a": filepath.Join(dir, "banger/gone.ko"), "fs-c": "",
	} {
		err := Load(dir, name)
		var path *os.PathError
		if !errors.Is(err, os.ErrNotExist) || errors.As(err, &path) != (want != "") || want != "" && path.Path != want {
			t.Errorf("%s: got %v", name, err)
		}
	}
	if err := Load(dir, "fs-b"); err != nil {
		t.Errorf("an alias for a module that is built in: %v", err)
	}
	if err := Load(t.TempDir(), "a"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("without an index: %v", err)
	}
}
