package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"banger/install/doctor"
	"banger/install/layout"
	"banger/personas/api"
)

func TestListAndShow(t *testing.T) {
	d := newFake(t)
	d.with(func() {
		d.vms["web"] = &api.VM{
			ID: "id-web", Name: "web", State: api.Running, Emulated: true, Address: "10.1.2.3", VMM: api.VMMQEMU, PID: 7,
			Spec: api.VMSpec{Name: "web", Image: "deb\x1b[2Jian", CPUs: 2, MemMiB: 512}, CreatedAt: time.Now().Add(-90 * time.Minute),
		}
		d.vms["db"] = &api.VM{ID: "id-db", Name: "db", State: api.Stopped, Reason: "ended\u009b2J", Image: "sha256:0123456789abcdef", CreatedAt: time.Now()}
	})
	want := `NAME   STATE                IMAGE           CPUS   MEMORY   ADDRESS    VMM    AGE
db     stopped              0123456789ab    0                                 0s
web    running (emulated)   deb\x1b[2Jian   2      512MiB   10.1.2.3   qemu   1h
`
	for _, verb := range []string{"list", "ps", "ls"} {
		if got := d.call("vm", verb); got.code != 0 || got.out != want {
			t.Errorf("%s: %+v\nwant %s", verb, got, want)
		}
	}
	if got := d.call("vm", "list", "-q"); got.out != "db\nweb\n" {
		t.Errorf("-q: %+v", got)
	}
	got := d.call("vm", "show", "web")
	for _, line := range []string{"name:     web\n", "state:    running (emulated)\n", "pid:      7\n", "memory:   512MiB\n"} {
		if !strings.Contains(got.out, line) {
			t.Errorf("show: %q is missing in\n%s", line, got.out)
		}
	}
	got = d.call("vm", "show", "db", "--output", "json")
	var vm api.VM
	if err := json.Unmarshal([]byte(got.out), &vm); err != nil || vm.Reason != "ended\u009b2J" {
		t.Errorf("json: %v, %+v", err, vm)
	}
	if strings.ContainsRune(got.out, '\u009b') {
		t.Error("json: a control character passes unescaped")
	}
	d.with(func() { clear(d.vms) })
	if got := d.call("vm", "list", "-o", "json"); got.out != "[]\n" {
		t.Errorf("no VM as JSON: %q", got.out)
	}
	if got := d.call("vm", "show", "web"); got.code != 125 || got.err != "banger: no VM web\n" {
		t.Errorf("show of nothing: %+v", got)
	}
}

func TestSeveralVMs(t *testing.T) {
	d := newFake(t)
	for _, n := range []string{"a", "b", "c"} {
		d.with(func() { d.vms[n] = &api.VM{ID: "id-" + n, Name: n} })
	}
	d.with(func() {
		d.fail["stop b"] = &api.Error{Code: api.CodeTimeout, Message: "stop b: no answer", HintText: "kill it"}
	})
	got := d.call("vm", "stop", "-q", "a", "b", "nope", "c", "a")
	if got.code != 125 || got.out != "a\nc\n" || got.err != "banger: stop b: no answer\nhint: kill it\nbanger: no VM nope\n" {
		t.Errorf("%+v", got)
	}
	got = d.call("vm", "start", "-q", "-o", "json", "a", "c")
	var vms []api.VM
	if err := json.Unmarshal([]byte(got.out), &vms); err != nil || len(vms) != 2 || vms[0].State != api.Running || vms[1].Name != "c" {
		t.Errorf("%+v, %v", got, err)
	}
	d.with(func() { d.fail["delete a false"] = &api.Error{Code: api.CodeConflict, Message: "a runs"} })
	if got := d.call("vm", "delete", "a"); got.code != 125 || !strings.Contains(got.err, "banger vm delete --force a") {
		t.Errorf("%+v", got)
	}
	if got := d.call("vm", "rm", "--force", "a", "-o", "json"); got.code != 0 || !strings.Contains(got.out, `"name": "a"`) || d.has("a") {
		t.Errorf("%+v", got)
	}
}

func TestSeveralImages(t *testing.T) {
	d := newFake(t)
	d.images = []api.Image{{Name: "a"}, {Name: "b"}, {Name: "c"}}
	if got := d.call("image", "delete", "-q", "b", "a", "b"); got.code != 0 || got.out != "b\na\n" {
		t.Errorf("the same twice: %+v", got)
	}
	if got := d.call("image", "delete", "-q", "nope", "c"); got.code != 125 || got.out != "c\n" || got.err != "banger: no image nope\n" {
		t.Errorf("one that is not there: %+v", got)
	}
}

func TestLogs(t *testing.T) {
	d := newFake(t)
	d.with(func() { d.vms["web"] = &api.VM{Name: "web"} })
	// A file gets what there is.
	if got := d.call("vm", "logs", "web"); got.out != "boot\r\n\x1b[31mred\x1b[0m\r\n" {
		t.Errorf("%+v", got)
	}
	for flag, want := range map[string]string{"--raw=false": "boot\r\n\\x1b[31mred\\x1b[0m\r\n", "--raw": "boot\r\r\n\x1b[31mred\x1b[0m\r\r\n"} {
		cmd := d.cmd("vm", "logs", flag, "web")
		ours, theirs := terminal(t, cmd)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		theirs.Close()
		got, _ := io.ReadAll(ours) // ends with EIO
		cmd.Wait()
		if string(got) != want {
			t.Errorf("terminal, %s: %q, want %q", flag, got, want)
		}
	}
	// Ctrl-C is how one ends what follows: no failure to speak of.
	signal, wait := d.startUntilReady("vm", "logs", "--follow", "web")
	signal(syscall.SIGINT)
	if got := wait(); got.code != 130 || got.err != "" {
		t.Errorf("Ctrl-C: %+v", got)
	}
}

func TestImports(t *testing.T) {
	d := newFake(t)
	dir := t.TempDir()
	path := dir + "/My_Debian.12.tar.gz"
	if err := os.WriteFile(path, []byte("content"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := d.call("image", "import", path); got.code != 0 || got.out != "my-debian-12\n" || d.content() != "content" {
		t.Errorf("%+v, content %q", got, d.content())
	}
	if d.request().Source != path || d.request().Default {
		t.Errorf("request: %+v", d.request())
	}
	got := d.runWith(strings.NewReader("piped"), "image", "import", "--default", "--name", "x", "-")
	if got.code != 0 || got.out != "x\n" || d.content() != "piped" || d.request().Source != "standard input" || !d.request().Default {
		t.Errorf("%+v, content %q, %+v", got, d.content(), d.request())
	}
	if got := d.call("image", "import", "--ref", "alpine:3", path); got.code != 0 || d.request().Ref != "alpine:3" {
		t.Errorf("%+v, %+v", got, d.request())
	}
	if err := os.Mkdir(dir+"/6.1.0-test", 0o700); err != nil {
		t.Fatal(err)
	}
	got = d.call("kernel", "import", "--modules", dir+"/6.1.0-test/", path)
	if got.code != 0 || !d.request().Modules || d.request().Config || d.request().Release != "6.1.0-test" {
		t.Errorf("%+v, %+v", got, d.request())
	}
	got = d.call("kernel", "import", "--config", path, path)
	if got.code != 0 || d.request().Modules || !d.request().Config {
		t.Errorf("%+v, %+v", got, d.request())
	}
	for name, bad := range map[string][]string{
		"config":       {"--config", dir, path},
		"missing":      {"--config", dir + "/none", path},
		"of the host":  {"--config", path, "--host"},
		"without file": {"--config", path},
	} {
		if got := d.call(append([]string{"kernel", "import"}, bad...)...); got.code != 2 {
			t.Errorf("%s: %+v", name, got)
		}
	}
}

func TestDoctorAndInventoryAndVersion(t *testing.T) {
	d := newFake(t)
	got := d.call("doctor")
	if got.code != 1 || !strings.HasPrefix(got.out, "STATUS ") || got.err != "" {
		t.Errorf("doctor: %+v", got)
	}
	if lines := regexp.MustCompile(`(?m)^fail +kvm +missing\\x1b\[2J\n +-> load kvm$`); !lines.MatchString(got.out) {
		t.Errorf("doctor: want %s in\n%s", lines, got.out)
	}
	var checks []doctor.Line
	got = d.call("doctor", "--output", "json")
	if err := json.Unmarshal([]byte(got.out), &checks); err != nil || got.code != 1 || len(checks) < 5 {
		t.Errorf("doctor as JSON: %+v, %v", got, err)
	}
	got = d.call("system", "inventory")
	if got.code != 0 || !strings.Contains(got.out, `"objects": [`) || !strings.Contains(got.out, "\"helper\": {\n    \"a\": 2,\n    \"b\": 1\n  }") {
		t.Errorf("inventory: %+v", got)
	}
	if got := d.call("version"); got.code != 0 || !strings.HasPrefix(got.out, "banger devel") || !strings.Contains(got.out, "\nbangerd 1.2.4\n") {
		t.Errorf("version: %+v", got)
	}
	// None of them needs a daemon, or starts one.
	d.die()
	for _, args := range [][]string{{"version"}, {"system", "inventory"}, {"doctor"}} {
		if got := d.call(args...); got.code > 1 || got.err != "" {
			t.Errorf("without a daemon: %v: %+v", args, got)
		}
	}
	if got := d.call("vm", "list"); got.code != 125 || !strings.Contains(got.err, "sudo banger") {
		t.Errorf("list without a daemon: %+v", got)
	}
}

// The doctor of an installed host whose bangerd is silent looks at its state, not
// at one of the caller's.
func TestStateOfASilentInstallation(t *testing.T) {
	t.Setenv("HOME", "/home/x")
	t.Setenv("SUDO_UID", "65534")
	a := &app{config: testConfig(filepath.Join(t.TempDir(), "nobody.sock"))}
	if dir := a.stateDir(t.Context(), true); dir != layout.OwnerState {
		t.Errorf("installed: %s", dir)
	}
	if dir := a.stateDir(t.Context(), false); dir == layout.OwnerState {
		t.Errorf("not installed: %s", dir)
	}
}

func TestExitCode(t *testing.T) {
	for _, c := range []struct {
		err  error
		want int
	}{
		{nil, 0},
		{errors.New("x"), 125},
		{fmt.Errorf("wrapped: %w", &exitStatus{code: 7}), 7},
		{errors.Join(&exitStatus{code: 7}, errors.New("delete")), 7},
		{usagef("x"), 2},
		{&api.Error{Code: api.CodeUsage}, 2},
		{&api.Error{Code: api.CodeInternal}, 125},
		{&signalError{syscall.SIGINT}, 130},
		{&signalError{syscall.SIGTERM}, 143},
		// An error of a library does not choose our exit code.
		{stranger{}, 125},
		{fmt.Errorf("wrapped: %w", stranger{}), 125},
	} {
		if got := exitCode(c.err); got != c.want {
			t.Errorf("%v: %d, want %d", c.err, got, c.want)
		}
	}
}

type stranger struct{}

func (stranger) Error() string { return "stranger" }
func (stranger) ExitCode() int { return 42 }

func TestSize(t *testing.T) {
	for text, want := range map[string]int64{
		"512m": 512 << 20, "512M": 512 << 20, "512MiB": 512 << 20, "512mb": 512 << 20, "2GiB": 2 << 30, "2g": 2 << 30,
		"1.5g": 3 << 29, "1024k": 1 << 20, "1048576": 1 << 20, "1048576b": 1 << 20, "4GiB": 4 << 30, "1t": 1 << 40,
	} {
		var s size
		if err := s.UnmarshalText([]byte(text)); err != nil || int64(s) != want {
			t.Errorf("%s: %d, %v; want %d", text, s, err, want)
		}
	}
	for _, text := range []string{
		"", "m", "-1m", "+1m", "0", "0g", "0.0000001k", "512", "1e9", "1 g", "1x", "1gg", "1kk", "0x10m", "1.m", ".5g",
		"9999999999p", "99999999999999999999", "Inf", "NaN", "1g\x00", "١g", "512kib/s", "1023k",
	} {
		var s size
		if err := s.UnmarshalText([]byte(text)); err == nil {
			t.Errorf("%q was taken for %d", text, s)
		}
	}
	for n, want := range map[size]int64{1 << 20: 1, 1<<20 + 1: 2, 3 << 29: 1536} {
		if got := n.mebibytes(); got != want {
			t.Errorf("%d bytes are %d MiB, want %d", n, got, want)
		}
	}
}

func TestNameFromFile(t *testing.T) {
	for path, want := range map[string]string{
		"debian.tar": "debian", "/x/Debian_12.tar.xz": "debian-12", "./a..b.tgz": "a-b", "vmlinuz-6.1.0-44-amd64": "vmlinuz-6-1-0-44-amd64",
		"linux-image-6.1.0-44-cloud-amd64_6.1.164-1_amd64.deb": "linux-image-6-1-0-44-cloud-amd64-6-1-16",
		"-x-.tar": "x", "日本.tar": "", "日本x.tar": "x", "....": "",
	} {
		got, err := nameFromFile(path)
		if got != want || (err == nil) != (want != "") {
			t.Errorf("%s: %q, %v; want %q", path, got, err, want)
		}
	}
}

func TestPlanCopy(t *testing.T) {
	for _, c := range []struct {
		paths []string
		want  copyJob
	}{
		{[]string{"a", "web:/x"}, copyJob{"web", true, []string{"a"}, "/x"}},
		{[]string{"a", "b/", "web:x/"}, copyJob{"web", true, []string{"a", "b/"}, "x/"}},
		{[]string{"web:/x", "web:/y", "."}, copyJob{"web", false, []string{"/x", "/y"}, "."}},
		{[]string{"./a:b", "/c:d", "web:/x"}, copyJob{"web", true, []string{"./a:b", "/c:d"}, "/x"}},
		{[]string{"web:a:b", "."}, copyJob{"web", false, []string{"a:b"}, "."}},
	} {
		if got, err := planCopy(c.paths); err != nil || fmt.Sprint(got) != fmt.Sprint(c.want) {
			t.Errorf("%q: %+v, %v; want %+v", c.paths, got, err, c.want)
		}
	}
}

func TestEscaper(t *testing.T) {
	const in = "a\tb\r\nc\rd\x1b]0;x\x07\x9b\u009bé\x7f\xff日\x00\r\n\r"
	const want = "a\tb\nc\\rd\\x1b]0;x\\a\\x9b\\u009bé\\x7f\\xff日\\x00\n\\r"
	// However the text is cut, the outcome is the same.
	for size := 1; size <= len(in); size++ {
		var out strings.Builder
		e := &escaper{w: &out}
		for from := 0; from < len(in); from += size {
			if _, err := e.Write([]byte(in[from:min(from+size, len(in))])); err != nil {
				t.Fatal(err)
			}
		}
		if err := e.Close(); err != nil {
			t.Fatal(err)
		}
		if out.String() != want {
			t.Fatalf("pieces of %d: %q, want %q", size, out.String(), want)
		}
	}
}

func FuzzEscaper(f *testing.F) {
	f.Add([]byte("a\r\n\x1b[2J\x9b\u009b"), 3)
	f.Fuzz(func(t *testing.T, in []byte, cut int) {
		var out strings.Builder
		e := &escaper{w: &out}
		cut = max(0, min(cut, len(in)))
		e.Write(in[:cut])
		e.Write(in[cut:])
		e.Close()
		for _, r := range out.String() {
			if r != '\n' && r != '\t' && (r < 0x20 || r >= 0x7f && r < 0xa0) {
				t.Fatalf("%q became %q", in, out.String())
			}
		}
		for _, r := range printable(string(in)) {
			if r != '\n' && (r < 0x20 || r >= 0x7f && r < 0xa0) {
				t.Fatalf("printable: %q", in)
			}
		}
	})
}
