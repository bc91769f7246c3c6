package initrd

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"banger/store/kernel/cpio"
)

func spec() Spec {
	return Spec{
		Init: strings.NewReader("binary"), InitBytes: 6, Release: "6.1",
		Modules: fstest.MapFS{
			"modules.dep":   {Data: []byte("kernel/b/b.ko: kernel/a.ko\nkernel/a.ko:\nkernel/c.ko:\nkernel/x.ko:\n")},
			"kernel/a.ko":   {Data: []byte("a")},
			"kernel/b/b.ko": {Data: []byte("bb")},
			"kernel/c.ko":   {Data: []byte("ccc")},
			"kernel/x.ko":   {Data: []byte("not wanted")},
		},
		Boot: []string{"kernel/b/b.ko", "kernel/a.ko"}, OnDemand: []string{"kernel/c.ko", "kernel/a.ko"},
	}
}

func build(t *testing.T, s Spec) []byte {
	t.Helper()
	var out bytes.Buffer
	if err := Build(&out, s); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func TestBuild(t *testing.T) {
	r := cpio.NewReader(bytes.NewReader(build(t, spec())))
	content := map[string]string{}
	var names []string
	for {
		h, err := r.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		data, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		names, content[h.Name] = append(names, h.Name), string(data)
		if h.Name == "init" && h.Mode != cpio.ModeFile|0o755 {
			t.Errorf("mode of init is %o", h.Mode)
		}
	}
	want := []string{
		"dev", "dev/console", "proc", "run", "sys", "init", "etc", "etc/banger", "etc/banger/modules",
		"lib", "lib/modules", "lib/modules/6.1", "lib/modules/6.1/modules.dep", "lib/modules/6.1/kernel",
		"lib/modules/6.1/kernel/a.ko", "lib/modules/6.1/kernel/b", "lib/modules/6.1/kernel/b/b.ko", "lib/modules/6.1/kernel/c.ko",
	}
	if !slices.Equal(names, want) {
		t.Errorf("entries\n got %q\nwant %q", names, want)
	}
	for name, want := range map[string]string{
		"init":                          "binary",
		"etc/banger/modules":            "/lib/modules/6.1/kernel/b/b.ko\n/lib/modules/6.1/kernel/a.ko\n",
		"lib/modules/6.1/modules.dep":   "kernel/b/b.ko: kernel/a.ko\nkernel/a.ko:\nkernel/c.ko:\n",
		"lib/modules/6.1/kernel/b/b.ko": "bb",
	} {
		if content[name] != want {
			t.Errorf("%s is %q, want %q", name, content[name], want)
		}
	}
}

func TestBuildIsDeterministic(t *testing.T) {
	if !bytes.Equal(build(t, spec()), build(t, spec())) {
		t.Error("equal input gives different bytes")
	}
}

func TestBuildWithoutModules(t *testing.T) {
	out := build(t, Spec{Init: strings.NewReader("x"), InitBytes: 1})
	if !bytes.Contains(out, []byte("etc/banger/modules\x00")) || bytes.Contains(out, []byte("lib/modules")) {
		t.Error("an initrd without modules has an empty list, and nothing else of them")
	}
}

func TestBuildTellsWhatIsMissing(t *testing.T) {
	s := spec()
	s.InitBytes = 7
	if err := Build(io.Discard, s); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("short binary: got error %v", err)
	}
	s = spec()
	s.Boot = append(s.Boot, "kernel/gone.ko")
	if err := Build(io.Discard, s); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("missing module: got error %v", err)
	}
	full := errors.New("full")
	if err := Build(broken{full}, spec()); !errors.Is(err, full) {
		t.Errorf("full disk: got error %v", err)
	}
}

type broken struct{ err error }

func (b broken) Write([]byte) (int, error) { return 0, b.err }
