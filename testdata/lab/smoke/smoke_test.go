// Package smoke_test runs banger on hosts with a real systemd.
package smoke_test

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"banger/testdata/assets"
	"banger/testdata/lab/rig"
	"banger/testdata/lab/talk"
)

func TestMain(m *testing.M) {
	rig.Main()
	os.Exit(m.Run())
}

// TestSmoke runs the scenarios of testdata/smoke, each on a fresh host with a
// real systemd (package rig), with a binary that counts what of it runs. They
// take minutes, so they are run on request: by `make smoke`.
//
// A scenario is a test script (see rogpeppe/go-internal/testscript) that says
// above its first command what it cannot do without:
//
//	# needs: kvm dm reboot limits firecracker jailer
//
// One that needs any of these runs on an emulated machine, others in namespaces
// of this one, unless BANGER_SMOKE_TIER says where all are to run; in namespaces,
// those that need more are skipped. With
// BANGER_SMOKE_TIER=host and a BANGER_FIRECRACKER that the installer takes, the VMs
// of all of them run in that. With BANGER_SMOKE_STRACE=1 the helpers of those in
// namespaces are under strace. The commands are in command_test.go.
func TestSmoke(t *testing.T) {
	if os.Getenv("BANGER_SMOKE") == "" {
		t.Skip("scenarios on a host with systemd take minutes: run make smoke")
	}
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	files := map[string]string{
		"banger":                build(t),
		"linux-image-cloud.deb": assets.File(t, "linux-image-cloud.deb"),
		"debian.tar":            assets.File(t, "debian.tar"),
		"debian-systemd.tar":    assets.File(t, "debian-systemd.tar"),
	}
	for name, file := range attackFiles(t) {
		files[name] = file
	}
	for name, variable := range binaries {
		if file := os.Getenv(variable); file != "" {
			files[name] = file
		}
	}
	if files["firecracker"] != "" {
		files["fctest"] = filepath.Join(t.TempDir(), "fctest")
		if err := goTool("test", "-c", "-o", files["fctest"], "banger/fc/fctest"); err != nil {
			t.Fatal(err)
		}
	}
	assets.File(t, "lab.tar")
	coverage := t.TempDir()
	// What a stuck machine, or a guest in one, has cut short is run again, after all others.
	var mu sync.Mutex
	var again []string
	params := func(again func(name string) bool) testscript.Params {
		return testscript.Params{
			Setup: func(env *testscript.Env) error { return setUp(env, files, coverage, again) },
			Cmds:  commands,
			Condition: func(name string) (bool, error) {
				switch name {
				case "fit":
					return fit(files["firecracker"]), nil
				case "dm":
					return forced == rig.Machine, nil
				}
				_, there := files[name]
				return there, nil
			},
		}
	}
	t.Run("scenario", func(t *testing.T) {
		p := params(func(name string) bool {
			mu.Lock()
			defer mu.Unlock()
			if len(again) == mostAgain {
				return false
			}
			again = append(again, filepath.Join(scenarios, name+".txtar"))
			return true
		})
		p.Dir = scenarios
		testscript.Run(t, p)
	})
	if len(again) > 0 {
		t.Run("scenario once more", func(t *testing.T) {
			p := params(func(string) bool { return false })
			p.Files = again
			testscript.Run(t, p)
		})
	}
	if straced && seen.Load() == 0 {
		t.Error("no helper was seen to do anything")
	}
	tellCoverage(t, coverage, "../../../coverage.smoke")
}

// mostAgain is how many scenarios are run once more: what happens to more of them is
// no fault of the emulator's.
const mostAgain = 2

// binaries are what no package has, by name; whoever has them says in an
// environment variable where.
var binaries = map[string]string{"firecracker": "BANGER_FIRECRACKER", "jailer": "BANGER_JAILER"}

// scenarios is where the scenarios are.
const scenarios = "../../smoke"

// play is a scenario on its way.
type play struct {
	host  *rig.Host
	last  rig.Result
	looks map[string][]string // by name
	begun map[string]*begun   // commands that run, by name

	firecracker bool // VMs are to run in it
	jailer      bool // which starts it
	watched     bool // its helper is, by strace

	emulated bool        // the host is an emulated machine
	again    func() bool // asks for the scenario to be run once more
	skip     func(...any)
}

// forced is the tier that all scenarios are to run in, if not empty.
var forced = rig.Tier(os.Getenv("BANGER_SMOKE_TIER"))

// sceneKey is what a scenario is found by in its script's values.
type sceneKey struct{}

// coverDir is where the instrumented binary of a host counts.
const coverDir = "/cover"

// setUp starts the host of a scenario.
func setUp(env *testscript.Env, files map[string]string, coverage string, again func(name string) bool) error {
	t, ok := env.T().(testing.TB)
	if !ok {
		return errors.New("not within a test")
	}
	name := strings.TrimPrefix(filepath.Base(t.Name()), "script-")
	text, err := os.ReadFile(filepath.Join(scenarios, name+".txtar"))
	if err != nil {
		return err
	}
	tier := rig.Namespaces
	for _, need := range needs(string(text)) {
		tier = rig.Machine
		if variable, ok := binaries[need]; ok && files[need] == "" {
			t.Skipf("needs %s: name one in %s", need, variable)
		}
		if forced == rig.Namespaces {
			t.Skipf("needs %s: only an emulated host has it", need)
		}
	}
	if wantsCatalogue.Match(text) {
		if files, err = withCatalogue(t, files, coverage); err != nil {
			return fmt.Errorf("make catalogue: %w", err)
		}
	}
	if wantsNewer.Match(text) {
		files = maps.Clone(files)
		files["newer"] = filepath.Join(t.TempDir(), "newer")
		if err := compile(files["newer"], os.Getenv("STAMP")+newerStamp); err != nil {
			return err
		}
	}
	if wantsPackage.Match(text) {
		files = maps.Clone(files)
		files["banger.deb"] = filepath.Join(t.TempDir(), "banger.deb")
		if out, err := exec.Command("../../../install/deb/build.sh", "v1", files["banger.deb"], files["banger"]).CombinedOutput(); err != nil {
			return fmt.Errorf("build package: %v\n%s", err, out)
		}
	}
	tier = cmp.Or(forced, tier)
	host, err := rig.Start(t.Context(), rig.Config{Tier: tier, Files: files})
	if err != nil {
		return err
	}
	s := &play{
		host: host, looks: map[string][]string{}, begun: map[string]*begun{},
		again: func() bool { return again(name) }, skip: t.Skip,
		emulated: tier == rig.Machine,
	}
	s.firecracker, s.jailer = tier == rig.Machine && fit(files["firecracker"]), files["jailer"] != ""
	env.Values[sceneKey{}] = s
	env.Defer(func() {
		s.judge(t)
		if t.Failed() {
			t.Logf("the services' journal:\n%s", s.journal())
		}
		if err := s.collect(filepath.Join(coverage, name)); err != nil {
			t.Logf("collect coverage: %v, ignoring", err)
		}
		if err := host.Close(); err != nil {
			t.Errorf("close host: %v", err)
		}
	})
	if err := s.prepare(t.Context()); err != nil || tier == rig.Machine {
		return err
	}
	return s.watch(string(text))
}

// needs returns what a scenario says that it needs.
func needs(text string) []string {
	for line := range strings.Lines(text) {
		if list, ok := strings.CutPrefix(line, "# needs:"); ok {
			return strings.Fields(list)
		}
		if !strings.HasPrefix(line, "#") {
			break
		}
	}
	return nil
}

// The drop-ins that let services count. Where the unit has a file system of its
// own, the place to count in has to be in it; banger-net must have none, for
// what it mounts is for others.
const (
	counts    = "[Service]\nEnvironment=GOCOVERDIR=" + coverDir + "\n"
	countsToo = counts + "ReadWritePaths=" + coverDir + "\n"
)

// prepare gives the host a place that the binary can count in.
func (s *play) prepare(ctx context.Context) error {
	const script = `mkdir -m 0777 /cover
drop() {
	mkdir -p /usr/local/lib/systemd/system/$1.service.d
	echo "$2" >/usr/local/lib/systemd/system/$1.service.d/cover.conf
}
drop banger-net "$1"
drop banger-net-watch "$2"
drop bangerd "$2"
drop banger-helper "$2"`
	r, err := s.host.Run(ctx, talk.Command{User: "root", Args: []string{"sh", "-ec", script, "prepare", counts, countsToo}})
	if err == nil && r.Code != 0 {
		err = fmt.Errorf("prepare host: %v", r)
	}
	return err
}

// journal returns what the services said, installed or standalone.
func (s *play) journal() string {
	const script = `journalctl --no-pager --quiet --output=short-precise -n 120 -u 'banger*' -p debug
tail -n 40 /run/banger/bangerd.log /run/banger-helper/helper.log 2>/dev/null
journalctl --no-pager --quiet -n 30 -p warning`
	r, err := s.host.Run(s.host.Life(), talk.Command{User: "root", Args: []string{"sh", "-c", script}})
	if err != nil {
		return err.Error()
	}
	return r.Stdout
}

// collect ends the services, so that they tell what they counted, and fetches
// that.
func (s *play) collect(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	const script = `systemctl stop bangerd.service banger-helper.service bangerd.socket banger-helper.socket banger-net.service 2>/dev/null
for name in bangerd banger-helper; do
	pkill -TERM -f "^$name" && while pgrep -f "^$name" >/dev/null; do sleep 0.1; done
done
tar -C /cover -c .`
	var out bytes.Buffer
	p, err := s.host.Start(talk.Command{User: "root", Args: []string{"timeout", "60", "sh", "-c", script}}, talk.Streams{Stdout: &out})
	if err != nil {
		return err
	}
	if _, err := p.Wait(s.host.Life()); err != nil {
		return err
	}
	cmd := exec.Command("tar", "-C", dir, "--no-same-owner", "-x")
	cmd.Stdin = &out
	return cmd.Run()
}

// build builds the binary as it is shipped, but with counters.
func build(t *testing.T) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "banger")
	if err := goTool("generate", "banger/personas/guest/binary"); err != nil {
		t.Fatal(err)
	}
	if err := compile(file, os.Getenv("STAMP")); err != nil {
		t.Fatal(err)
	}
	return file
}

// compile builds the binary with a stamp, of which the last word on a name counts.
func compile(file, stamp string) error {
	stamp = "-X banger/personas.Built=2000-01-01T00:00:00Z " + stamp
	return goTool("build", "-trimpath", "-buildvcs=false", "-tags", "embedguest", "-cover", "-coverpkg", "banger/...", "-ldflags", stamp, "-o", file, "banger")
}

// goTool runs go, for static binaries.
func goTool(args ...string) error {
	cmd := exec.Command("go", args...)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("go %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return nil
}

// wantsNewer matches a scenario that upgrades to a binary of another stamp.
var wantsNewer = regexp.MustCompile(`/srv/lab/newer\b`)

// wantsPackage matches a scenario that installs the Debian package.
var wantsPackage = regexp.MustCompile(`/srv/lab/banger\.deb\b`)

// newerStamp is that of a binary which is newer than any other.
const newerStamp = " -X banger/personas.Version=newer -X banger/personas.Built=2100-01-01T00:00:00Z"

// tellCoverage writes what was counted on all hosts as a profile, for `go tool
// cover`. A host that lost its power may have written half a file: such files are
// left out, and told.
func tellCoverage(t *testing.T, dir, profile string) {
	t.Helper()
	dirs, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil {
		t.Fatal(err)
	}
	textfmt := func(out string, dirs ...string) error {
		text, err := exec.Command("go", "tool", "covdata", "textfmt", "-i", strings.Join(dirs, ","), "-o", out).CombinedOutput()
		if err != nil {
			return fmt.Errorf("%w: %s", err, text)
		}
		return nil
	}
	for {
		err := textfmt(profile, dirs...)
		if err == nil {
			return
		}
		torn := tornFile.FindStringSubmatch(err.Error())
		if torn == nil || os.Remove(torn[1]) != nil {
			t.Errorf("merge coverage: %v", err)
			return
		}
		t.Logf("coverage: half a file of %s is left out", filepath.Base(filepath.Dir(torn[1])))
	}
}

// tornFile finds what covdata calls a file that it cannot read.
var tornFile = regexp.MustCompile(`reading counter data file (\S+):`)
