package main_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"banger/testdata/assets"
	"banger/testdata/host"
)

// TestSudoServesTheOwner: through sudo banger is the owner's, with its state in
// the owner's home, and only the helper is root.
func TestSudoServesTheOwner(t *testing.T) {
	kernel, image := assets.File(t, "linux-image-cloud.deb"), assets.File(t, "debian.tar")
	h := newHost(t, host.Config{})

	// Without rights and without a daemon there is no way but to ask for one.
	r := h.Run(host.Owner, "banger", "vm", "run", "--", "true")
	if r.Code != 125 || !strings.Contains(r.Stderr, "sudo") {
		t.Errorf("without rights: %v", r)
	}

	h.Must(host.Sudo, "banger", "kernel", "import", kernel)
	h.Must(host.Sudo, "banger", "image", "import", image)
	if r := h.Run(host.Sudo, "banger", "vm", "run", "--rm", "--", "sh", "-c", "exit 42"); r.Code != 42 {
		t.Errorf("run: %v", r)
	}
	// With the daemon up, the owner needs no sudo any more.
	h.Must(host.Owner, "banger", "vm", "run", "-d", "--name", "web")
	if got := h.Must(host.Owner, "banger", "vm", "exec", "web", "--", "hostname"); got != "web" {
		t.Errorf("hostname is %q", got)
	}
	for name, want := range map[string]int{"bangerd": host.OwnerID, "banger-helper": 0} {
		pids := h.Pids(name)
		if len(pids) != 1 {
			t.Fatalf("%d processes are %s", len(pids), name)
		}
		if got := credentials(t, h, pids[0]); got.uid != want || want != 0 && got.caps != 0 {
			t.Errorf("%s has uid %d and capabilities %x, want uid %d", name, got.uid, got.caps, want)
		}
	}
	var vm shownVM
	if err := json.Unmarshal([]byte(h.Must(host.Owner, "banger", "vm", "show", "web", "--output", "json")), &vm); err != nil {
		t.Fatal(err)
	}
	if got := credentials(t, h, vm.PID); got.uid == 0 || got.uid == host.OwnerID || got.caps != 0 {
		t.Errorf("the VMM has uid %d and capabilities %x", got.uid, got.caps)
	}
	if want := "/home/" + host.OwnerName + "/"; !strings.HasPrefix(vm.Disk, want) {
		t.Errorf("the disk is %s, want it below %s", vm.Disk, want)
	}
	if foreign := h.Must(host.Root, "find", "/home/"+host.OwnerName, "!", "-user", host.OwnerName); foreign != "" {
		t.Errorf("in the owner's home, but not the owner's:\n%s", foreign)
	}
	// Nobody else gets in.
	if r := h.Run(host.Root, "setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", h.Banger(), "vm", "list"); r.Code != 125 {
		t.Errorf("a stranger lists VMs: %v", r)
	}
	h.Must(host.Owner, "banger", "vm", "delete", "--force", "web")
}

type creds struct {
	uid  int
	caps uint64 // permitted and effective
}

// credentials returns what the kernel says of a process of the host.
func credentials(t *testing.T, h *host.Host, pid int) creds {
	t.Helper()
	b, err := os.ReadFile(h.Path(filepath.Join("/proc", fmt.Sprint(pid), "status")))
	if err != nil {
		t.Fatal(err)
	}
	var c creds
	for line := range strings.Lines(string(b)) {
		var caps uint64
		if n, _ := fmt.Sscanf(line, "Uid: %d", &c.uid); n == 1 {
			continue
		}
		if strings.HasPrefix(line, "CapPrm:") || strings.HasPrefix(line, "CapEff:") {
			fmt.Sscanf(line[7:], "%x", &caps)
			c.caps |= caps
		}
	}
	return c
}

// TestRolesRefuseTheWrongUser: argv[0] picks a role, never a right.
func TestRolesRefuseTheWrongUser(t *testing.T) {
	h := newHost(t, host.Config{})
	if r := h.Run(host.Root, "banger", "bangerd"); r.Code == 0 || !strings.Contains(r.Stderr, "root") {
		t.Errorf("bangerd as root: %v", r)
	}
	if r := h.Run(host.Owner, "banger", "banger-helper"); r.Code == 0 || !strings.Contains(r.Stderr, "root") {
		t.Errorf("banger-helper as the owner: %v", r)
	}
}

// TestNothingIsStartedToLook: inventory and doctor only read.
func TestNothingIsStartedToLook(t *testing.T) {
	h := newHost(t, host.Config{})
	before := h.Look()
	h.Inventory(host.Root)
	if r := h.Run(host.Root, "banger", "doctor", "--output", "json"); r.Code > 1 {
		t.Errorf("doctor: %v", r)
	} else {
		var checks []struct{ Name, Status string }
		if err := json.Unmarshal([]byte(r.Stdout), &checks); err != nil || len(checks) < 5 {
			t.Errorf("doctor: %d checks, %v\n%s", len(checks), err, r.Stdout)
		}
	}
	h.Must(host.Owner, "banger", "version")
	if diff := host.Difference(before, h.Look()); len(diff) > 0 {
		t.Errorf("looking changed the host:\n%s", strings.Join(diff, "\n"))
	}
}
