// Package smoke_test runs banger on hosts with a real systemd.
package smoke_test

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"banger/testdata/lab/rig"
	"banger/testdata/lab/talk"
	"banger/testdata/lab/tree"
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
// of this one, unless BANGER_SMOKE_TIER says where all are to run. The commands
// are in command_test.go.
func TestSmoke(t *testing.T) {
	if os.Getenv("BANGER_SMOKE") == "" {
		t.Skip("scenarios on a host with systemd take minutes: run make smoke")
	}
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	files := map[string]string{
		"banger":                build(t),
		"linux-image-cloud.deb": asset(t, "linux-image-cloud.deb"),
		"debian.tar":            asset(t, "debian.tar"),
		"debian-systemd.tar":    asset(t, "debian-systemd.tar"),
	}
	for name, variable := range binaries {
		if file := os.Getenv(variable); file != "" {
			files[name] = file
		}
	}
	asset(t, "lab.tar")
	coverage := t.TempDir()
	t.Run("scenario", func(t *testing.T) {
		testscript.Run(t, testscript.Params{
			Dir:   scenarios,
			Setup: func(env *testscript.Env) error { return setUp(env, files, coverage) },
			Cmds:  commands,
			Condition: func(name string) (bool, error) {
				_, there := files[name]
				return there, nil
			},
		})
	})
	tellCoverage(t, coverage, "../../../coverage.smoke")
}

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
}

// sceneKey is what a scenario is found by in its script's values.
type sceneKey struct{}

// coverDir is where the instrumented binary of a host counts.
const coverDir = "/cover"

// setUp starts the host of a scenario.
func setUp(env *testscript.Env, files map[string]string, coverage string) error {
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
	}
	if wantsCatalogue.Match(text) {
		if files, err = withCatalogue(t, files, coverage); err != nil {
			return fmt.Errorf("make catalogue: %w", err)
		}
	}
	tier = cmp.Or(rig.Tier(os.Getenv("BANGER_SMOKE_TIER")), tier)
	host, err := rig.Start(t.Context(), rig.Config{Tier: tier, Files: files})
	if err != nil {
		return err
	}
	s := &play{host: host, looks: map[string][]string{}, begun: map[string]*begun{}}
	env.Values[sceneKey{}] = s
	env.Defer(func() {
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
	return s.prepare(t.Context())
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
	r, err := s.host.Run(context.Background(), talk.Command{User: "root", Args: []string{"sh", "-c", script}})
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
	if _, err := p.Wait(context.Background()); err != nil {
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
	for _, args := range [][]string{
		{"generate", "banger/personas/guest/binary"},
		{"build", "-trimpath", "-buildvcs=false", "-tags", "embedguest", "-cover", "-coverpkg", "banger/...", "-ldflags", os.Getenv("STAMP"), "-o", file, "banger"},
	} {
		cmd := exec.Command("go", args...)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("go %s: %v\n%s", strings.Join(args, " "), err, out)
		}
	}
	return file
}

// asset returns the path of a file that testdata/assets.sh makes.
func asset(t *testing.T, name string) string {
	t.Helper()
	cache, err := tree.Cache()
	if err != nil {
		t.Skipf("needs %s: %v", name, err)
	}
	file := filepath.Join(cache, name)
	if _, err := os.Stat(file); err != nil {
		t.Skipf("needs %s: run testdata/assets.sh %s", name, name)
	}
	return file
}

// tellCoverage writes what was counted on all hosts as a profile, for `go tool
// cover`. A host that lost its power may have counted half a file: what such a
// scenario has counted is left out, and told.
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
	dirs = slices.DeleteFunc(dirs, func(d string) bool {
		err := textfmt(os.DevNull, d)
		if err != nil {
			t.Logf("coverage of %s is left out: %v", filepath.Base(d), err)
		}
		return err != nil
	})
	if err := textfmt(profile, dirs...); err != nil {
		t.Errorf("merge coverage: %v", err)
	}
}
