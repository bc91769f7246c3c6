package main_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// fences are the import rules of the house: the package and everything below
// it must never reach a package that a pattern of mustNot matches, by whatever
// way. A pattern is an import path, or a tree where it ends in "/...".
var fences = []struct {
	pkg     string
	mustNot []string
	except  []string
	why     string
}{
	{"banger/ops/...", []string{"banger/..."}, []string{"banger/ops/..."},
		"a leaf knows no other leaf"},
	{"banger/fc/...", []string{"banger/..."}, []string{"banger/fc/..."},
		"a leaf knows no other leaf"},
	{"banger/netns/...", []string{"banger/..."}, []string{"banger/netns/..."},
		"a leaf knows no other leaf"},
	{"banger/store/...", []string{"banger/..."}, []string{"banger/store/..."},
		"a leaf knows no other leaf"},
	{"banger/install/...", []string{"banger/..."}, []string{"banger/install/..."},
		"a leaf knows no other leaf"},
	{"banger/personas/api/...", []string{"banger/..."}, []string{"banger/personas/api/..."},
		"words that two processes share know neither of them"},
	{"banger/personas/guest/link/...", []string{"banger/..."}, []string{"banger/personas/guest/link/..."},
		"words that two processes share know neither of them"},

	{"banger/ops/...", []string{"net/http", "os/exec"}, nil,
		"the privileged protocol is small, and starts nothing"},
	{"banger/personas/helper/...", []string{"banger/fc", "banger/store/...", "banger/personas/api", "banger/personas/cli", "banger/personas/daemon/..."},
		[]string{"banger/store/disk/dm", "banger/store/disk/cow"},
		"root talks to no guest, reads no store and knows no user interface; of disks it knows what the kernel makes of two files"},
	{"banger/personas/helper/...", []string{"net/http", "github.com/alecthomas/kong", "archive/...", "github.com/klauspost/compress/..."}, nil,
		"root parses nothing but its own small protocol"},
	{"banger/personas/daemon/...", []string{"banger/netns/...", "banger/fc/jail", "banger/store/disk/dm"}, nil,
		"the daemon has no right that these need: it asks the helper"},
	{"banger/personas/daemon/...", []string{"banger/personas/cli/...", "banger/personas/helper", "banger/personas/vmm/...", "github.com/alecthomas/kong"}, nil,
		"a role knows the words of another, never its deeds"},
	{"banger/personas/cli/...", []string{"banger/store/...", "banger/fc", "banger/fc/jail", "banger/ops/...", "banger/netns/..."}, nil,
		"the CLI asks the daemon, which is the only writer of the store and the only client of the helper"},
	{"banger/personas/cli/...", []string{"banger/personas/daemon/...", "banger/personas/helper", "banger/personas/vmm/..."}, nil,
		"a role knows the words of another, never its deeds"},
	{"banger/personas/guest/...", []string{"net/http", "github.com/alecthomas/kong", "banger/ops/...", "banger/netns/...", "banger/store/...", "banger/personas/api"}, nil,
		"the guest's first process stays light, and nothing of the host is in it"},
	{"banger/store/disk", []string{"banger/store/disk/dm"}, nil,
		"the rooted half is a room of its own, which the helper alone opens"},
	{"banger/personas/vmm/...", []string{"banger/ops/...", "banger/netns/...", "banger/store/...", "banger/personas/api", "banger/fc/jail"}, nil,
		"a VMM that is taken over must find no words to the helper in it"},
}

// TestFences holds the import rules.
func TestFences(t *testing.T) {
	reach := dependencies(t)
	for _, f := range fences {
		fenced := 0
		for pkg, deps := range reach {
			if !match(f.pkg, pkg) {
				continue
			}
			fenced++
			for _, dep := range deps {
				forbidden := slices.ContainsFunc(f.mustNot, func(p string) bool { return match(p, dep) })
				excepted := slices.ContainsFunc(f.except, func(p string) bool { return match(p, dep) })
				if forbidden && !excepted {
					t.Errorf("%s reaches %s: %s", pkg, dep, f.why)
				}
			}
		}
		if fenced == 0 {
			t.Errorf("no package is %s: the fence stands round nothing", f.pkg)
		}
	}
}

// TestFencePatterns proves that a fence can fail, and only for what it names.
func TestFencePatterns(t *testing.T) {
	for _, c := range []struct {
		pattern, pkg string
		want         bool
	}{
		{"banger/fc", "banger/fc", true},
		{"banger/fc", "banger/fc/jail", false},
		{"banger/fc/...", "banger/fc", true},
		{"banger/fc/...", "banger/fc/jail", true},
		{"banger/fc/...", "banger/fctest", false},
		{"net/http", "net/http/httptest", false},
	} {
		if got := match(c.pattern, c.pkg); got != c.want {
			t.Errorf("match(%q, %q) = %t", c.pattern, c.pkg, got)
		}
	}
}

func match(pattern, pkg string) bool {
	if tree, ok := strings.CutSuffix(pattern, "/..."); ok {
		return pkg == tree || strings.HasPrefix(pkg, tree+"/")
	}
	return pkg == pattern
}

// dependencies returns everything that each package of the module reaches.
func dependencies(t *testing.T) map[string][]string {
	t.Helper()
	cmd := exec.Command("go", "list", "-f", "{{.ImportPath}} {{join .Deps \" \"}}", "./...")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	reach := map[string][]string{}
	for line := range strings.Lines(string(out)) {
		fields := strings.Fields(line)
		reach[fields[0]] = fields[1:]
	}
	if len(reach) < 2 {
		t.Fatalf("go list names %d packages", len(reach))
	}
	return reach
}

// topLevel is every directory that the house has.
var topLevel = []string{"docs", "fc", "install", "netns", "ops", "personas", "store", "testdata"}

func TestTopLevelIsFixed(t *testing.T) {
	entries, err := os.ReadDir(".")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if e.IsDir() && !strings.HasPrefix(e.Name(), ".") && !slices.Contains(topLevel, e.Name()) {
			t.Errorf("%s/: not part of the house", e.Name())
		}
	}
}

// The longest that a file may be, in lines.
const (
	maxLines     = 500
	maxTestLines = 800
)

// TestStyle holds what of the house style a machine can see.
func TestStyle(t *testing.T) {
	docs := map[string][]string{} // package directory to the files with its comment
	fset := token.NewFileSet()
	err := filepath.WalkDir(".", func(name string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && name != "." && strings.HasPrefix(d.Name(), "."):
			return fs.SkipDir
		case d.IsDir() && slices.Contains([]string{"util", "utils", "common", "helpers", "misc"}, d.Name()):
			t.Errorf("%s: a package is named after its one idea", name)
		case d.IsDir() || path.Ext(name) != ".go":
			return nil
		}
		f, err := parser.ParseFile(fset, name, nil, parser.ParseComments)
		if err != nil {
			return err
		}
		checkFile(t, fset, name, f)
		dir := filepath.Dir(name)
		if !strings.HasSuffix(name, "_test.go") {
			docs[dir] = append(docs[dir], documented(f, name)...)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for dir, files := range docs {
		if len(files) != 1 {
			t.Errorf("%s: want one package comment, have %d %v", dir, len(files), files)
		}
	}
}

func documented(f *ast.File, name string) []string {
	if f.Doc == nil {
		return nil
	}
	return []string{name}
}

func checkFile(t *testing.T, fset *token.FileSet, name string, f *ast.File) {
	test := strings.HasSuffix(name, "_test.go")
	lines := fset.File(f.FileStart).LineCount()
	if limit := map[bool]int{false: maxLines, true: maxTestLines}[test]; lines > limit {
		t.Errorf("%s: %d lines, more than %d", name, lines, limit)
	}
	for _, group := range f.Comments {
		for _, c := range group.List {
			if strings.Contains(c.Text, "TO"+"DO") || strings.Contains(c.Text, "FIX"+"ME") {
				t.Errorf("%s: do it, or file an issue", fset.Position(c.Pos()))
			}
		}
	}
	for _, decl := range f.Decls {
		switch d := decl.(type) {
		case *ast.FuncDecl:
			if d.Name.Name == "init" && d.Recv == nil {
				t.Errorf("%s: no func init: dependencies are arguments", fset.Position(d.Pos()))
			}
			if !test && d.Doc == nil && d.Name.IsExported() && exportedReceiver(d) {
				t.Errorf("%s: %s is exported without a comment", fset.Position(d.Pos()), d.Name.Name)
			}
		case *ast.GenDecl:
			if !test {
				checkDecl(t, fset, d)
			}
		}
	}
}

// exportedReceiver reports whether d is a function or a method of an exported
// type.
func exportedReceiver(d *ast.FuncDecl) bool {
	if d.Recv == nil || len(d.Recv.List) == 0 {
		return true
	}
	typ := d.Recv.List[0].Type
	for {
		switch x := typ.(type) {
		case *ast.StarExpr:
			typ = x.X
		case *ast.IndexExpr:
			typ = x.X
		case *ast.Ident:
			return x.IsExported()
		default:
			return false
		}
	}
}

// checkDecl wants a comment on every exported name, or on its group.
func checkDecl(t *testing.T, fset *token.FileSet, d *ast.GenDecl) {
	if d.Doc != nil {
		return
	}
	for _, spec := range d.Specs {
		switch s := spec.(type) {
		case *ast.TypeSpec:
			if s.Name.IsExported() && s.Doc == nil {
				t.Errorf("%s: %s is exported without a comment", fset.Position(s.Pos()), s.Name.Name)
			}
		case *ast.ValueSpec:
			if s.Names[0].IsExported() && s.Doc == nil && s.Comment == nil {
				t.Errorf("%s: %s is exported without a comment", fset.Position(s.Pos()), s.Names[0].Name)
			}
		}
	}
}
