package kernel_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"banger/store/kernel"
)

// debianPackage returns a Debian kernel package of the test cache; flavour is cloud
// or generic.
func debianPackage(t testing.TB, flavour string) string {
	t.Helper()
	cache := os.Getenv("BANGER_TEST_CACHE")
	if cache == "" {
		user, err := os.UserCacheDir()
		if err != nil {
			t.Skip("no cache directory: ", err)
		}
		cache = filepath.Join(user, "banger-test")
	}
	p := filepath.Join(cache, "linux-image-"+flavour+".deb")
	if _, err := os.Stat(p); err != nil {
		t.Skipf("no Debian kernel package at %s", p)
	}
	return p
}

// imported imports a Debian kernel into a directory that lives as long as the test.
func imported(t *testing.T, flavour string) (string, kernel.Info) {
	t.Helper()
	dst := filepath.Join(t.TempDir(), "kernel")
	info, err := kernel.Import(t.Context(), kernel.Source{Path: debianPackage(t, flavour)}, dst)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(info.Version, info.Release+" (") || !info.PVH || !info.BzImage || !info.Config ||
		len(info.Missing)+len(info.Unknown) != 0 || info.Source != "linux-image-"+flavour+".deb" {
		t.Errorf("got %+v", info)
	}
	return dst, info
}
