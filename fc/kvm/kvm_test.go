package kvm

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestProbeOfWhatIsNoKVM(t *testing.T) {
	gone := filepath.Join(t.TempDir(), "kvm")
	if r := Probe(t.Context(), gone); r.State != Missing || !strings.Contains(r.Reason, gone) {
		t.Errorf("nothing there: %v", r)
	}
	// Something that opens and knows none of KVM's requests.
	if r := Probe(t.Context(), "/dev/null"); r.State != Unusable || !strings.Contains(r.Reason, "ask for version") {
		t.Errorf("/dev/null: %v", r)
	}
	if os.Getuid() != 0 {
		t.Skip("the rest needs root, to make a device node")
	}
	// A node without a driver: the misc major with a minor that nobody has.
	node := filepath.Join(t.TempDir(), "node")
	if err := unix.Mknod(node, unix.S_IFCHR|0o600, int(unix.Mkdev(10, 250))); err != nil {
		t.Skipf("make device node: %v", err)
	}
	if r := Probe(t.Context(), node); r.State != Missing && r.State != NoPermission {
		t.Errorf("node without driver: %v", r)
	}
}

func TestProbeHere(t *testing.T) {
	r := Probe(t.Context(), Device)
	t.Log(r)
	if !slices.Contains([]State{Missing, NoPermission, Unusable, Usable}, r.State) {
		t.Errorf("state %q", r.State)
	}
	if (r.State == Usable) != (r.Reason == "") {
		t.Errorf("state %s with reason %q", r.State, r.Reason)
	}
	if r.State != Usable {
		t.Skipf("the machine code was not run: KVM is %v", r)
	}
}
