package smoke_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// attackFiles returns what attackers run on a host and in its guests, by name.
func attackFiles(t *testing.T) map[string]string {
	t.Helper()
	attacker := filepath.Join(t.TempDir(), "attacker")
	cmd := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-o", attacker, "banger/testdata/lab/attacker")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build attacker: %v\n%s", err, out)
	}
	files := map[string]string{"attacker": attacker}
	for _, name := range []string{"frame.pl", "listen.pl"} {
		file, err := filepath.Abs(filepath.Join("../../guest", name))
		if err != nil {
			t.Fatal(err)
		}
		files[name] = file
	}
	return files
}
