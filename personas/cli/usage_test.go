package cli

import (
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/alecthomas/kong"
)

// Everything that can be seen to be wrong is refused with exit code 2 before
// the daemon is asked anything.
func TestUsage(t *testing.T) {
	d := newFake(t)
	for _, c := range []struct {
		args string // fields
		want string // in standard error
	}{
		{"", "expected one of"},
		{"vm", "expected one of"},
		{"vm nonsense", "unexpected argument nonsense"},
		{"vm run --nonsense", "unknown flag --nonsense"},
		{"vm run --cpus 0", "cpus 0: want 1 to 32"},
		{"vm run --cpus=-1", "cpus -1: want 1 to 32"},
		{"vm run --cpus 33", "cpus 33: want 1 to 32"},
		{"vm run --cpus two", "--cpus"},
		{"vm run --memory 512", "512 bytes; did you mean 512m?"},
		{"vm run --memory 0", "less than 1 MiB"},
		{"vm run --memory=-512m", "want a number with a unit"},
		{"vm run --memory 512q", "want a number with a unit"},
		{"vm run --memory 95m", "want 96 MiB"},
		{"vm run --memory 99999999999p", "too large"},
		{"vm run --memory 2t", "want 96 MiB"},
		{"vm run --disk 1m", "want 64 MiB to 16 TiB"},
		{"vm run --disk 17t", "want 64 MiB to 16 TiB"},
		{"vm run --net lan", "--net must be one of"},
		{"vm run --init systemd", "--init must be one of"},
		{"vm run --vmm xen", "--vmm must be one of"},
		{"vm run --backend dm", "--backend must be one of"},
		{"vm run --name Web", `name "Web"`},
		{"vm run --name a/../b", `name "a/../b"`},
		{"vm run -e NOVALUE", `environment "NOVALUE": want NAME=VALUE`},
		{"vm run --workdir srv", "want an absolute path"},
		{"vm run -d -i", "--detach excludes"},
		{"vm run -d -t -- true", "--detach excludes"},
		{"vm run -it -- true", "not a terminal"},
		{"vm create --cpus 0", "cpus 0"},
		{"vm create true", "unexpected argument true"},
		{"vm exec", `expected "<vm>"`},
		{"vm exec web -e NOVALUE -- true", "want NAME=VALUE"},
		{"vm exec web --workdir x -- true", "want an absolute path"},
		{"vm run --user a:b:c", "want a name or a number"},
		{"vm exec web --user : -- true", "want a name or a number"},
		{"vm start", "expected"},
		{"vm stop --timeout=-1s web", "timeout -1s"},
		{"vm stop --timeout soon web", "--timeout"},
		{"vm show", "expected"},
		{"vm show a b", "unexpected argument b"},
		{"vm cp one", "at least one source"},
		{"vm cp a b", "neither side is in a VM"},
		{"vm cp web:/a db:/b", "go through the host"},
		{"vm cp web:/a db:/b .", "same VM"},
		{"vm cp web: .", "want VM:PATH"},
		{"vm cp web:/a -", "\"-\" is no path"},
		{"vm cp - web:/a", "\"-\" is no path"},
		{"vm list --output yaml", "--output must be one of"},
		{"image import", "expected"},
		{"image import -", "standard input has no name"},
		{"image import /nonexistent.tar", "no such file"},
		{"image import --name Bad /dev/null", `name "Bad"`},
		{"image import --ref=\x01 /dev/null", "reference"},
		{"kernel import", "neither a file nor --host"},
		{"kernel import --host x.deb", "--host takes neither"},
		{"kernel import --modules /nonexistent " + "usage_test.go", "modules: open /nonexistent"},
		{"kernel import .", "not a regular file"},
		{"completion tcsh", "must be one of"},
		{"system", "expected"},
	} {
		got := d.call(strings.Fields(c.args)...)
		if got.code != 2 || !strings.Contains(got.err, c.want) || got.out != "" {
			t.Errorf("banger %s: exit %d, %q, %q; want 2 and %q", c.args, got.code, got.out, got.err, c.want)
		}
		if !strings.HasPrefix(got.err, "banger: ") {
			t.Errorf("banger %s: %q does not say who speaks", c.args, got.err)
		}
	}
	if got := d.call("vm", "run", "--name"); got.code != 2 || !strings.Contains(got.err, "--name: expected string value, but none is given") {
		t.Errorf("--name at the end: exit %d, %q", got.code, got.err)
	}
	if log := d.log(); log != "" {
		t.Errorf("the daemon was asked: %s", log)
	}
}

func TestHelpOfEveryCommand(t *testing.T) {
	d := newFake(t)
	for _, c := range []string{
		"vm run", "vm create", "vm start", "vm stop", "vm restart", "vm kill", "vm delete", "vm list", "vm show",
		"vm exec", "vm logs", "vm cp", "image import", "image list", "image show", "image delete", "kernel import",
		"kernel list", "kernel show", "kernel delete", "system inventory", "doctor", "version", "completion",
	} {
		got := d.call(append(strings.Fields(c), "--help")...)
		if got.code != 0 || got.err != "" || !strings.Contains(got.out, "Usage: banger "+c) {
			t.Errorf("%s: exit %d, %q, %q", c, got.code, got.out, got.err)
		}
		// Once in the usage, and at least once in an example.
		if strings.Count(got.out, "banger "+c) < 2 {
			t.Errorf("%s: help without an example:\n%s", c, got.out)
		}
	}
	if got := d.call("--help"); got.code != 0 || !strings.Contains(got.out, "vm run") {
		t.Errorf("--help: %+v", got)
	}
}

// Every flag that takes a value, and every argument, of every command: given and
// empty is wrong, and never the same as not given.
func TestGivenButEmptyIsRefused(t *testing.T) {
	var g grammar
	parser, err := newParser(&g, &app{out: os.Stdout, err: os.Stderr}, func(int) {})
	if err != nil {
		t.Fatal(err)
	}
	tried := 0
	refused := func(args []string, want string) { // without a run: it might be an uninstallation
		tried++
		parsed, err := parser.Parse(args)
		if err == nil {
			err = checkGiven(parsed)
		}
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("banger %q: got %v, want a word of %q", args, err, want)
		}
	}
	for _, leaf := range parser.Model.Leaves(true) {
		var command, needed []string
		for n := leaf; n.Parent != nil; n = n.Parent {
			command = append([]string{n.Name}, command...)
		}
		for _, p := range leaf.Positional {
			if p.Required {
				needed = append(needed, strings.Split(p.Enum+",web:/x", ",")[0])
			}
		}
		for _, flags := range leaf.AllFlags(true) {
			for _, f := range flags {
				if !f.IsBool() {
					refused(slices.Concat(command, []string{"--" + f.Name + "="}, needed), "--"+f.Name)
				}
			}
		}
		for i, p := range leaf.Positional {
			if p.PassthroughMode == kong.PassThroughModeNone {
				refused(slices.Concat(command, needed[:min(i, len(needed))], []string{""}, needed[min(i+1, len(needed)):]), p.Name)
			}
		}
	}
	if tried < 60 {
		t.Errorf("only %d were tried", tried)
	}

	d := newFake(t)
	for _, args := range [][]string{
		{"vm", "run", "--name=", "--", "true"}, {"vm", "run", "--name", "", "true"}, {"vm", "run", "-e", "", "true"},
		{"vm", "exec", "--user", "", "web", "true"}, {"vm", "delete", "web", ""}, {"kernel", "import", "--modules", "", "usage_test.go"}, {"kernel", "import", "--config", "", "usage_test.go"},
	} {
		if got := d.call(args...); got.code != 2 || !strings.Contains(got.err, "is empty: want") || got.out != "" {
			t.Errorf("banger %q: exit %d, %q, %q", args, got.code, got.out, got.err)
		}
	}
	if log := d.log(); log != "" {
		t.Errorf("the daemon was asked: %s", log)
	}
}
