// Package ext4test looks at ext4 images as others do: e2fsck, and the kernel that mounts them.
// Only tests use it.
package ext4test

import (
	"os/exec"
	"strings"
	"testing"
)

// Check wants e2fsck -fn to find nothing at all in the image at path: no error, no question,
// no remark. Where e2fsck is missing it says so and checks nothing.
func Check(t testing.TB, path string) {
	t.Helper()
	if _, err := exec.LookPath("e2fsck"); err != nil {
		t.Log("e2fsck is missing, the image is not checked")
		return
	}
	out, err := exec.Command("e2fsck", "-fn", path).CombinedOutput()
	if err != nil {
		t.Fatalf("e2fsck: %v\n%s", err, head(out))
	}
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	if len(lines) != 7 { // the version, five passes, the summary
		t.Fatalf("e2fsck has something to say:\n%s", head(out))
	}
}

func head(p []byte) []byte { return p[:min(len(p), 4000)] }
