package install

import (
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"banger/install/layout"
)

// The gates of CI: exposure as systemd-analyze(1) counts it, times ten.
func TestUnitsAreHard(t *testing.T) {
	analyze, err := exec.LookPath("systemd-analyze")
	if err != nil {
		t.Skip("needs systemd-analyze")
	}
	for source, most := range map[string]string{"bangerd.service": "15", "banger-net-watch.service": "15", "banger-helper.service": "26"} {
		out, err := exec.Command(analyze, "security", "--offline=true", "--no-pager", "--threshold="+most, unitFile(t, source)).CombinedOutput()
		if err != nil {
			t.Errorf("%s is above %s: %v\n%s", source, most, err, out)
		}
	}
	// A negative control: without its sandbox it is above.
	soft := filepath.Join(t.TempDir(), "soft.service")
	if err := os.WriteFile(soft, []byte("[Service]\nExecStart=/bin/true\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := exec.Command(analyze, "security", "--offline=true", "--threshold=26", soft).Run(); err == nil {
		t.Error("a unit without any sandbox passes")
	}
}

// unitFile renders a unit for a test.
func unitFile(t *testing.T, source string) string {
	t.Helper()
	data, err := render(source, &layout.Record{
		Prefix: "/usr/local", Owner: layout.Owner{Name: "alice", UID: 1000, GID: 1000}, Network: netip.MustParsePrefix("10.99.0.0/16"),
	})
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), source)
	if err := os.WriteFile(path, data, 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

// Root without these can be stopped by the modes of files.
func TestCapabilities(t *testing.T) {
	data := string(read(t, unitFile(t, "banger-helper.service")))
	for _, c := range []string{"CAP_DAC_OVERRIDE", "CAP_DAC_READ_SEARCH", "CAP_SYS_PTRACE", "CAP_SETUID", "CAP_SYS_ADMIN", "CAP_SYS_MODULE"} {
		if strings.Contains(data, c) {
			t.Errorf("the helper has %s", c)
		}
	}
	if data := string(read(t, unitFile(t, "bangerd.service"))); !strings.Contains(data, "\nCapabilityBoundingSet=\n") || !strings.Contains(data, "\nUser=1000\n") {
		t.Error("bangerd is not an ordinary user without rights")
	}
}

func TestParseUnits(t *testing.T) {
	got := parseUnits([]byte("Id=a.service\nActiveState=active\nSubState=running\n\nId=b.socket\nActiveState=inactive\nSubState=dead\n"))
	want := []Unit{{"a.service", "active (running)"}, {"b.socket", "inactive (dead)"}}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("got %v, want %v", got, want)
	}
}
