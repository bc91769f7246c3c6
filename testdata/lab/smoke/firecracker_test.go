package smoke_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"

	"banger/install/doctor"
	"banger/testdata/lab/rig"
)

// fit reports whether the Firecracker at path, if there is one, is of a version that
// the installer takes.
func fit(path string) bool {
	if path == "" {
		return false
	}
	words, err := exec.Command(path, "--version").Output()
	return err == nil && !doctor.BelowFloor(string(words))
}

// withFirecracker adds Firecracker to what installs banger, and its jailer where there
// is one, on a host that has KVM for it: so there every scenario runs on it.
func (s *play) withFirecracker(args []string) []string {
	if s.firecracker && slices.Equal(args, []string{"/root/banger", "system", "install", "--owner", "alice"}) {
		args = append(args, "--firecracker", rig.Shared+"/firecracker")
		if s.jailer {
			args = append(args, "--jailer", rig.Shared+"/jailer")
		}
	}
	return args
}

func TestFit(t *testing.T) {
	for version, want := range map[string]bool{"1.14.2": false, "1.14.4": true, "1.15.0": false, "1.15.1": true} {
		file := filepath.Join(t.TempDir(), "firecracker")
		if err := os.WriteFile(file, []byte("#!/bin/sh\necho Firecracker v"+version+"\n"), 0o755); err != nil {
			t.Fatal(err)
		}
		if got := fit(file); got != want {
			t.Errorf("%s: %t, want %t", version, got, want)
		}
	}
	if fit("") || fit("/nonexistent") {
		t.Error("none is fit")
	}
}

// Only an installation for alice that says nothing of Firecracker is given one.
func TestWithFirecracker(t *testing.T) {
	install := []string{"/root/banger", "system", "install", "--owner", "alice"}
	given := append(slices.Clone(install), "--firecracker", "/srv/lab/firecracker")
	s := play{firecracker: true}
	if got := s.withFirecracker(install); !slices.Equal(got, given) {
		t.Errorf("got %q", got)
	}
	s.jailer = true
	if got := s.withFirecracker(install); !slices.Equal(got, append(slices.Clone(given), "--jailer", "/srv/lab/jailer")) {
		t.Errorf("with a jailer: got %q", got)
	}
	for _, args := range [][]string{given, install[:4], {"true"}} {
		if got := s.withFirecracker(args); !slices.Equal(got, args) {
			t.Errorf("%q became %q", args, got)
		}
	}
	if got := new(play).withFirecracker(install); !slices.Equal(got, install) {
		t.Errorf("without one: got %q", got)
	}
}
