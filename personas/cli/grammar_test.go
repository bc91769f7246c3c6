package cli

import (
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/alecthomas/kong"
)

// leaves returns the commands of a grammar.
func leaves(t *testing.T, grammar reflect.Type) []*kong.Node {
	t.Helper()
	parser, err := newParser(reflect.New(grammar).Interface(), &app{out: os.Stdout, err: os.Stderr}, func(int) {})
	if err != nil {
		t.Fatal(err)
	}
	return parser.Model.Leaves(false)
}

// described is everything that a command takes, and how it is explained.
func described(leaf *kong.Node) []string {
	words := []string{leaf.FullPath(), leaf.Help, leaf.Detail}
	for _, flags := range leaf.AllFlags(false) {
		for _, f := range flags {
			words = append(words, f.String(), f.Help, f.Enum, f.Default)
		}
	}
	for _, p := range leaf.Positional {
		words = append(words, p.Summary(), p.Help, p.Enum)
	}
	return words
}

// By whatever name a command is called, its own grammar has that command alone,
// and as the whole grammar has it.
func TestGrammarOfOneCommandIsThatOfTheWhole(t *testing.T) {
	whole := reflect.TypeFor[grammar]()
	for _, leaf := range leaves(t, whole) {
		calls := [][]string{nil}
		for n := leaf; n.Parent != nil; n = n.Parent {
			var longer [][]string
			for _, name := range append([]string{n.Name}, n.Aliases...) {
				for _, call := range calls {
					longer = append(longer, slices.Concat([]string{name}, call))
				}
			}
			calls = longer
		}
		for _, call := range calls {
			own, ok := only(whole, slices.Concat([]string{"-o", "json"}, call, []string{"web", "--name", "x"}))
			if !ok {
				t.Errorf("%q: no grammar", call)
				continue
			}
			got := leaves(t, own)
			if len(got) != 1 {
				t.Errorf("%q: the grammar has %d commands", call, len(got))
				continue
			}
			if got, want := described(got[0]), described(leaf); !slices.Equal(got, want) {
				t.Errorf("%q:\ngot  %q\nwant %q", call, got, want)
			}
		}
	}
}

func TestGrammarOfNoCommand(t *testing.T) {
	for _, line := range []string{"", "--help", "nonsense", "vm", "vm --help", "vm nonsense", "run", "vms list", "-- --"} {
		if own, ok := only(reflect.TypeFor[grammar](), strings.Fields(line)); ok {
			t.Errorf("%q: has the grammar %v", line, own)
		}
	}
}

// A word that is the value of a flag, and at the same time a command, is what
// the whole grammar takes it for.
func TestValueOfAFlagIsNoCommand(t *testing.T) {
	d := newFake(t)
	if got := d.call("--output", "vm", "list"); got.code != 2 || !strings.Contains(got.err, "unexpected argument list") {
		t.Errorf("exit %d, %q", got.code, got.err)
	}
	if got := d.call("nonsense", "vm", "list"); got.code != 2 || !strings.Contains(got.err, "unexpected argument nonsense") {
		t.Errorf("exit %d, %q", got.code, got.err)
	}
}
