package ext4

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

// names lists the tree.
func names(w *Writer) (list []string) {
	for _, n := range w.subtree(rootNode, nil) {
		name := ""
		for ; n != rootNode; n = w.tree.nodes.at(n).parent {
			name = "/" + string(w.tree.nameOf(n)) + name
		}
		list = append(list, name)
	}
	slices.Sort(list)
	return list
}

// TestHidingTwice compares with a Writer that walks over every directory each time, in layers
// of whiteouts, files and directories in any order.
func TestHidingTwice(t *testing.T) {
	for seed := range uint64(300) {
		quick, _ := newImage(t, Options{})
		slow, _ := newImage(t, Options{})
		random := rand.New(rand.NewPCG(seed, 0))
		for range 60 {
			name := ""
			for range random.IntN(4) {
				name += fmt.Sprintf("/%c", 'a'+random.IntN(3))
			}
			op := random.IntN(12)
			for _, w := range []*Writer{quick, slow} {
				clear(slow.hidden)
				var err error
				switch {
				case op == 0:
					w.NextLayer()
				case op < 3:
					err = w.Remove(name)
				case op < 5:
					err = w.Clear(name)
				case op < 7 && name != "":
					w.Create(name+"/d", Header{Mode: modeDir | 0o755}) // or below a file
				case op < 8 && name != "":
					w.Link("a/f", name)
				case name != "":
					w.Create(name+"/f", Header{Mode: modeRegular})
				}
				must(t, err)
			}
			if got, want := names(quick), names(slow); !slices.Equal(got, want) {
				t.Fatalf("seed %d: got %q, want %q", seed, got, want)
			}
		}
	}
}

// TestWhiteoutsAreNotQuadratic hides the same again and again.
func TestWhiteoutsAreNotQuadratic(t *testing.T) {
	const n = 20_000
	w, _ := newImage(t, Options{})
	for i := range n {
		must(t, w.Create(fmt.Sprintf("old/%d", i), Header{Mode: modeRegular}))
	}
	w.NextLayer()
	start := time.Now()
	for i := range n {
		must(t, w.Create(fmt.Sprintf("dir/%d", i), Header{Mode: modeRegular}))
	}
	created := time.Since(start)
	start = time.Now()
	for range n {
		must(t, w.Clear(""))
		must(t, w.Remove("dir"))
	}
	hidden := time.Since(start)
	t.Logf("%d files in %v, %d whiteouts in %v", n, created, 2*n, hidden)
	if hidden > 20*created+time.Second {
		t.Errorf("%d whiteouts took %v, as many files %v", 2*n, hidden, created)
	}
	if got := len(names(w)); got != n+3 {
		t.Errorf("%d names are left, want %d", got, n+3)
	}
}
