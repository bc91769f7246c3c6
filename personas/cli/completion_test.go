package cli

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"banger/personas/api"
)

// completions are what must be offered for a line, and what must not.
var completions = []struct {
	line string // the last word is being typed
	want []string
	not  []string
}{
	{"banger ", []string{"vm", "image", "kernel", "system", "doctor", "version", "completion"}, []string{"__complete", "run"}},
	{"banger v", []string{"vm", "version"}, []string{"image"}},
	{"banger vm ", []string{"run", "create", "exec", "cp"}, []string{"import"}},
	{"banger vm ex", []string{"exec"}, []string{"run"}},
	{"banger image i", []string{"import"}, nil},
	{"banger vm run --me", []string{"--memory"}, []string{"--name"}},
	{"banger vm run --net ", []string{"none", "internet", "full"}, []string{"web"}},
	{"banger vm run --net f", []string{"full"}, []string{"none"}},
	{"banger vm run --image ", []string{"debian"}, []string{"web"}},
	{"banger --output json vm exec ", []string{"web", "db"}, []string{"debian"}},
	{"banger vm exec w", []string{"web"}, []string{"db"}},
	{"banger vm stop web d", []string{"db"}, nil},
	{"banger image show ", []string{"debian"}, []string{"web"}},
	{"banger vm list --output ", []string{"table", "json"}, nil},
	{"banger completion ", []string{"bash", "zsh", "fish"}, nil},
	{"banger image import ./some", []string{"./somefile"}, nil},
	{"banger image import ./my", []string{"./my image.tar"}, nil},
}

// completer starts a fake daemon, and a directory with banger and two files.
func completer(t *testing.T) (d *fakeDaemon, dir string, env []string) {
	d = newFake(t)
	d.with(func() {
		d.vms["web"], d.vms["db"] = &api.VM{Name: "web"}, &api.VM{Name: "db"}
		d.images = []api.Image{{Name: "debian"}}
	})
	dir = t.TempDir()
	if err := os.Symlink(os.Args[0], filepath.Join(dir, "banger")); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"somefile", "my image.tar"} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	env = append(os.Environ(), "BANGER_TEST_SOCKET="+d.socket, "PATH="+dir+":"+os.Getenv("PATH"), "HOME="+dir, "ZDOTDIR="+dir, "XDG_CONFIG_HOME="+dir, "GORACE=atexit_sleep_ms=0")
	return d, dir, env
}

// offered runs a shell whose script takes the lines as arguments, and prints what
// it offers for each, a word a line, and then "==". One shell for all is faster.
func offered(t *testing.T, dir string, env []string, shell string, args, lines []string) [][]string {
	cmd := exec.CommandContext(t.Context(), shell, append(args, lines...)...)
	cmd.Dir, cmd.Env = dir, env
	var errOut bytes.Buffer
	cmd.Stderr = &errOut
	out, err := cmd.Output()
	if err != nil || errOut.Len() > 0 {
		t.Fatalf("%s: %v, %s", shell, err, errOut.String())
	}
	var all [][]string
	for part := range strings.SplitSeq(strings.TrimSuffix(string(out), "==\n"), "==\n") {
		all = append(all, strings.Split(strings.TrimSpace(part), "\n"))
	}
	if len(all) != len(lines) {
		t.Fatalf("%s: %d answers to %d lines: %q", shell, len(all), len(lines), out)
	}
	return all
}

func checkOffers(t *testing.T, dir string, env []string, shell string, args ...string) {
	var lines []string
	for _, c := range completions {
		lines = append(lines, c.line)
	}
	got := offered(t, dir, env, shell, args, lines)
	for i, c := range completions {
		for _, w := range c.want {
			if !slices.Contains(got[i], w) {
				t.Errorf("%q offers %q, not %q", c.line, got[i], w)
			}
		}
		for _, w := range c.not {
			if slices.Contains(got[i], w) {
				t.Errorf("%q offers %q, and %q among them", c.line, got[i], w)
			}
		}
	}
}

func shellOrSkip(t *testing.T, name string) string {
	path, err := exec.LookPath(name)
	if err != nil {
		t.Skipf("%s is not installed", name)
	}
	return path
}

func TestBashCompletes(t *testing.T) {
	bash := shellOrSkip(t, "bash")
	_, dir, env := completer(t)
	// What readline does: split the line, call the function, read COMPREPLY.
	const script = `source <(banger completion bash) || exit
complete -p banger | grep -q _banger || echo "not registered" >&2
for line in "$@"; do
    COMP_WORDS=($line)
    [[ $line == *" " ]] && COMP_WORDS+=("")
    COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
    _banger
    printf '%s\n' "${COMPREPLY[@]}" ==
done`
	checkOffers(t, dir, env, bash, "--norc", "-c", script, "bash")
	// bash makes three words of --net=f.
	got := offered(t, dir, env, bash, []string{"--norc", "-c", script, "bash"}, []string{"banger vm run --net = f"})
	if !slices.Equal(got[0], []string{"full"}) {
		t.Errorf("--net=f offers %q", got)
	}
}

func TestFishCompletes(t *testing.T) {
	fish := shellOrSkip(t, "fish")
	_, dir, env := completer(t)
	const script = `banger completion fish | source
for line in $argv
    complete -C $line | string replace -r '\t.*' ''
    echo ==
end`
	checkOffers(t, dir, env, fish, "--no-config", "-c", script)
}

func TestZshCompletes(t *testing.T) {
	zsh := shellOrSkip(t, "zsh")
	_, dir, env := completer(t)
	// zsh completes only in its line editor. So its builtins are replaced by
	// functions that print what would be offered.
	const script = `compdef() { : }
source <(banger completion zsh)
compset() { : }
_message() { : }
_files() { print -l ${cur}*(N) }
compadd() { while [[ $1 == -* ]]; do if [[ $1 == -a ]]; then shift; set -- ${(P)1}; break; fi; shift; done; offer_all "$@" }
_describe() { local a=${@[-1]}; local -a all; all=(${(P)a}); offer_all ${all%%:*} }
offer_all() { local w; for w in "$@"; do [[ $w == ${words[CURRENT]}* ]] && print -r -- $w; done }
for line in "$@"; do
    words=(${=line})
    [[ $line == *" " ]] && words+=("")
    CURRENT=$#words
    _banger
    print '=='
done
true`
	checkOffers(t, dir, env, zsh, "-f", "-c", script, "zsh")
}
