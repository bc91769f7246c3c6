package image

import (
	"fmt"
	"os/exec"
	"strings"
	"testing"
)

// wantContents wants an image to have exactly the given files (and directories of any name),
// by content; that of a symbolic link begins with "-> ". It reads by debugfs, without a mount.
func wantContents(t testing.TB, img string, want map[string]string) {
	t.Helper()
	if _, err := exec.LookPath("debugfs"); err != nil {
		t.Skip("debugfs is missing")
	}
	got := map[string]string{}
	list(t, img, "", got)
	for name, data := range want {
		if d, ok := got[name]; !ok {
			t.Errorf("%s is missing", name)
		} else if d != data {
			t.Errorf("%s is %q, want %q", name, d, data)
		}
	}
	for name := range got {
		if _, ok := want[name]; !ok {
			t.Errorf("%s is too much", name)
		}
	}
}

func debugfs(t testing.TB, img, request string) string {
	t.Helper()
	out, err := exec.Command("debugfs", "-R", request, img).Output()
	if err != nil {
		t.Fatalf("debugfs: %v", err)
	}
	return string(out)
}

func list(t testing.TB, img, dir string, into map[string]string) {
	t.Helper()
	for line := range strings.Lines(debugfs(t, img, fmt.Sprintf("ls -p \"/%s\"", dir))) {
		f := strings.Split(line, "/") // /inode/mode/uid/gid/name/size/
		if len(f) < 7 || f[5] == "." || f[5] == ".." || dir == "" && f[5] == "lost+found" || f[1] == "0" {
			continue
		}
		name := strings.TrimPrefix(dir+"/"+f[5], "/")
		switch f[2][:2] {
		case "04":
			list(t, img, name, into)
		case "12":
			s := debugfs(t, img, fmt.Sprintf("stat \"/%s\"", name))
			_, rest, _ := strings.Cut(s, "Fast link dest: \"")
			target, _, _ := strings.Cut(rest, "\"")
			into[name] = "-> " + target
		default:
			into[name] = debugfs(t, img, fmt.Sprintf("cat \"/%s\"", name))
		}
	}
}
