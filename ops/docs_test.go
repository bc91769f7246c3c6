package ops

import (
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write docs/ops.md")

// TestDocs keeps docs/ops.md what the declarations say.
func TestDocs(t *testing.T) {
	const path = "../docs/ops.md"
	want := document(t)
	if *update {
		if err := os.WriteFile(path, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != want {
		t.Error("docs/ops.md is not what the declarations say: run \"go test ./ops -run TestDocs -update\"")
	}
}

// TestPrivileges keeps the table of docs/privileges.md what the declarations say.
func TestPrivileges(t *testing.T) {
	text, err := os.ReadFile("../docs/privileges.md")
	if err != nil {
		t.Fatal(err)
	}
	needs := make(map[string][]string)
	for _, declared := range All() {
		op := declared.Declaration()
		for _, capability := range strings.FieldsFunc(op.Needs, func(r rune) bool { return r == ',' || r == ' ' }) {
			needs[capability] = append(needs[capability], op.Name)
		}
	}
	for _, row := range regexp.MustCompile(`(?m)^\| (CAP_\w+) \|.*\| (.*) \|$`).FindAllStringSubmatch(string(text), -1) {
		got, want := strings.Split(row[2], ", "), needs[row[1]]
		slices.Sort(got)
		slices.Sort(want)
		if !slices.Equal(got, want) {
			t.Errorf("%s is for %v there, and for %v in the declarations", row[1], got, want)
		}
		delete(needs, row[1])
	}
	if len(needs) > 0 {
		t.Errorf("missing there are %v", needs)
	}
}

// TestShownTestsExist keeps the promise that docs/ops.md makes.
func TestShownTestsExist(t *testing.T) {
	for _, declared := range All() {
		op := declared.Declaration()
		if op.Attack == "" || len(op.Shown) == 0 {
			t.Errorf("%s: does not say what an attacker could try, or what shows that he fails", op.Name)
		}
		for _, shown := range op.Shown {
			dir, test, _ := strings.Cut(shown, " ")
			if !hasTest(t, filepath.Join("..", dir), test) {
				t.Errorf("%s: there is no %s in %s", op.Name, test, dir)
			}
		}
	}
}

func hasTest(t *testing.T, dir, name string) bool {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*_test.go"))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		data, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(data), "\nfunc "+name+"(") {
			return true
		}
	}
	return false
}

// declared is what declare.go says of one operation besides its Decl.
type declared struct{ doc, args, reply string }

// document makes docs/ops.md of the declarations and their comments.
func document(t *testing.T) string {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), "declare.go", nil, parser.ParseComments)
	if err != nil {
		t.Fatal(err)
	}
	ops, structs := make(map[string]declared), make(map[string]*ast.StructType)
	for _, d := range file.Decls {
		g, ok := d.(*ast.GenDecl)
		if !ok {
			continue
		}
		for _, s := range g.Specs {
			switch s := s.(type) {
			case *ast.TypeSpec:
				if st, ok := s.Type.(*ast.StructType); ok {
					structs[s.Name.Name] = st
				}
			case *ast.ValueSpec:
				if args, reply, ok := typesOf(s); ok {
					ops[s.Names[0].Name] = declared{g.Doc.Text(), args, reply}
				}
			}
		}
	}
	var b strings.Builder
	fmt.Fprintf(&b, `# Operations

What root does for the owner, and nothing else. Made from ops/declare.go by
`+"`go test ./ops -run TestDocs -update`"+`.

A request is one message of at most %d bytes with at most %d descriptors, a reply of at most %d with at
most %d. What is too long, has unknown, repeated or case-folded keys, the wrong number of
descriptors, or a field that is malformed, is refused before anything is looked up. Who asks must have the
owner's uid. The scenario testdata/smoke/attacks.txtar attacks each operation on an installed host, with what
its declaration allows and does not.
`, MaxRequest, MaxFilesIn, MaxReply, MaxFilesOut)
	for _, declared := range All() {
		op := declared.Declaration()
		d, ok := ops[op.Name]
		if !ok {
			t.Fatalf("%s is not declared in declare.go by that name", op.Name)
		}
		fmt.Fprintf(&b, "\n## %s\n\n%s\n", op.Name, d.doc)
		table(&b, "Arguments", structs[d.args])
		table(&b, "Reply", structs[d.reply])
		files := fmt.Sprint(op.MaxFiles)
		if op.MinFiles != op.MaxFiles {
			files = fmt.Sprintf("%d to %d", op.MinFiles, op.MaxFiles)
		}
		fmt.Fprintf(&b, "- Descriptors: %s in, %d out\n- Capabilities: %s\n- An attacker could: %s\n- Shown by: %s\n",
			files, op.FilesOut, orNone(op.Needs), op.Attack, "`"+strings.Join(op.Shown, "`, `")+"`")
	}
	return b.String()
}

func orNone(s string) string {
	if s == "" {
		return "none"
	}
	return s
}

// typesOf returns the names of A and R of a declaration &Op[A, R]{...}.
func typesOf(s *ast.ValueSpec) (args, reply string, ok bool) {
	if len(s.Values) != 1 {
		return "", "", false
	}
	u, ok := s.Values[0].(*ast.UnaryExpr)
	if !ok {
		return "", "", false
	}
	lit, ok := u.X.(*ast.CompositeLit)
	if !ok {
		return "", "", false
	}
	index, ok := lit.Type.(*ast.IndexListExpr)
	if !ok || len(index.Indices) != 2 {
		return "", "", false
	}
	return fmt.Sprint(index.Indices[0]), fmt.Sprint(index.Indices[1]), true
}

var jsonName = regexp.MustCompile("json:\"([^\",]+)")

// table lists the fields of a struct, if there are any.
func table(b *strings.Builder, title string, st *ast.StructType) {
	if st == nil || st.Fields.NumFields() == 0 {
		return
	}
	fmt.Fprintf(b, "| %s | Type | |\n|---|---|---|\n", title)
	for _, f := range st.Fields.List {
		about := strings.TrimSpace(f.Comment.Text() + " " + f.Doc.Text())
		fmt.Fprintf(b, "| `%s` | %s | %s |\n", jsonName.FindStringSubmatch(f.Tag.Value)[1], f.Type, strings.Join(strings.Fields(about), " "))
	}
	b.WriteString("\n")
}
