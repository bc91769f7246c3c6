// Package launch_test measures how VMMs are started.
package launch_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"testing"
	"time"

	"banger/testdata/assets"
	"banger/testdata/lab/rig"
	"banger/testdata/lab/talk"
)

func TestMain(m *testing.M) {
	rig.Main()
	os.Exit(m.Run())
}

// goal is the most that a unit of systemd's may take longer than a helper that starts
// VMMs itself.
const goal = 30 * time.Millisecond

// BenchmarkLaunch compares the two ways to start a VMM: what the helper takes for
// VMStart, until the API socket answers. Two hosts start VMs in turn, one with banger
// installed, one with a private helper, and the medians count. The VMM answers at once,
// so that hardly any of it is the VMM's.
func BenchmarkLaunch(b *testing.B) {
	if os.Getuid() != 0 {
		b.Skip("needs root")
	}
	var busy float64
	if text, err := os.ReadFile("/proc/loadavg"); err == nil {
		fmt.Sscan(string(text), &busy)
	}
	files := map[string]string{
		"banger":                build(b, "banger/testdata/quickvmm"),
		"banger-vmm":            build(b, "banger/testdata/quickvmm/vmm"),
		"linux-image-cloud.deb": assets.File(b, "linux-image-cloud.deb"),
		"debian.tar":            assets.File(b, "debian.tar"),
	}
	assets.File(b, "lab.tar")
	unit := start(b, files, "/root/banger system install --owner alice >/dev/null", "journalctl --quiet --output=cat -u banger-helper")
	direct := start(b, files, "true", "cat /run/banger-helper/helper.log")
	const turns = 40
	for range turns {
		unit.launch(b)
		direct.launch(b)
	}
	more := unit.median(b, turns) - direct.median(b, turns)
	fmt.Printf("\na VMM's start, from the request to a socket that answers: by a unit %s, by the helper itself %s\n%s more, and at most %s are meant; the machine's load before was %.2f\n\n",
		ms(unit.median(b, turns)), ms(direct.median(b, turns)), ms(more), ms(goal), busy)
	b.ReportMetric(0, "ns/op") // the line says what was measured
	b.ReportMetric(float64(more.Microseconds())/1000, "ms-more")
}

func ms(d time.Duration) string { return fmt.Sprintf("%.1f ms", float64(d.Microseconds())/1000) }

// A launcher is a host with banger.
type launcher struct {
	host *rig.Host
	log  string // prints the helper's
}

// start starts a host, which a VM has been on already.
func start(b *testing.B, files map[string]string, install, log string) *launcher {
	b.Helper()
	host, err := rig.Start(b.Context(), rig.Config{Tier: rig.Namespaces, Files: files})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := host.Close(); err != nil {
			b.Errorf("close host: %v", err)
		}
	})
	l := &launcher{host, log}
	l.run(b, `for dir in /root /usr/local/bin; do cp /srv/lab/banger-vmm $dir; done
`+install+`
/root/banger kernel import --name debian /srv/lab/linux-image-cloud.deb
/root/banger image import --name debian /srv/lab/debian.tar`)
	l.launch(b) // makes the initrd
	return l
}

func (l *launcher) run(b *testing.B, script string) string {
	b.Helper()
	r, err := l.host.Run(b.Context(), talk.Command{User: "root", Args: []string{"sh", "-ec", script}})
	if err == nil && r.Code != 0 {
		err = fmt.Errorf("%s: %v", script, r)
	}
	if err != nil {
		b.Fatal(err)
	}
	return r.Stdout
}

// launch makes a VM, starts it and deletes it.
func (l *launcher) launch(b *testing.B) {
	b.Helper()
	l.run(b, "/root/banger vm run --detach --name v; /root/banger vm delete --force v")
}

// took matches how long a start took, in the helper's log.
var took = regexp.MustCompile(`op=VMStart .* took=(\S+)`)

// median is of the last n starts.
func (l *launcher) median(b *testing.B, n int) time.Duration {
	b.Helper()
	var times []time.Duration
	for _, m := range took.FindAllStringSubmatch(l.run(b, l.log), -1) {
		d, err := time.ParseDuration(m[1])
		if err != nil {
			b.Fatal(err)
		}
		times = append(times, d)
	}
	if len(times) < n {
		b.Fatalf("the log tells of %d starts, want %d", len(times), n)
	}
	times = times[len(times)-n:]
	slices.Sort(times)
	return times[n/2]
}

// build builds a program, and returns its path.
func build(b *testing.B, pkg string) string {
	b.Helper()
	file := filepath.Join(b.TempDir(), "program")
	cmd := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-ldflags", "-s -w", "-o", file, pkg)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		b.Fatalf("build %s: %v\n%s", pkg, err, out)
	}
	return file
}
