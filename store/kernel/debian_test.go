package kernel_test

import (
	"path/filepath"
	"strings"
	"testing"

	"banger/store/kernel"
	"banger/testdata/assets"
)

// imported imports a Debian kernel into a directory that lives as long as the test.
func imported(t *testing.T, flavour string) (string, kernel.Info) {
	t.Helper()
	dst := filepath.Join(t.TempDir(), "kernel")
	info, err := kernel.Import(t.Context(), kernel.Source{Path: assets.File(t, "linux-image-"+flavour+".deb")}, dst)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(info.Version, info.Release+" (") || !info.PVH || !info.BzImage || !info.Config ||
		len(info.Missing)+len(info.Unknown) != 0 || info.Source != "linux-image-"+flavour+".deb" {
		t.Errorf("got %+v", info)
	}
	return dst, info
}
