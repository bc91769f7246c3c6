// Package trie writes the binary indexes that kmod's modprobe reads beside, and
// instead of, the text that depmod writes: modules.dep.bin and the like.
//
// Such a file is a radix tree over the keys. All integers are big endian:
//
//	magic, version, root            three words
//	node: prefix 0                  where the node's flags have it
//	      first last child...       a word for each letter from first to last
//	      count (priority value 0)...
//
// A word that leads to a node has the node's flags in its four highest bits, and
// where it begins in the others; a word of nothing is zero.
package trie

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
)

const (
	magic   = 0xb007f457
	version = 2<<16 | 1

	hasPrefix   = 0x8000_0000
	hasValues   = 0x4000_0000
	hasChildren = 0x2000_0000
	maxOffset   = 0x0fff_ffff
)

// ErrKey means a key with letters that an index has no place for.
var ErrKey = errors.New("key is not of ASCII letters")

// ErrTooLarge means more than fits into an index.
var ErrTooLarge = errors.New("index is too large")

// An Entry is one key with one of its values.
type Entry struct{ Key, Value string }

// Encode returns the index of entries. Of several values of a key, the first is
// the first to be found.
func Encode(entries []Entry) ([]byte, error) {
	w := writer{out: make([]byte, 12)}
	list := make([]ranked, len(entries))
	for i, e := range entries {
		if strings.IndexFunc(e.Key, func(r rune) bool { return r < 1 || r > 126 }) >= 0 || strings.ContainsRune(e.Value, 0) {
			return nil, fmt.Errorf("%w: %q", ErrKey, e.Key)
		}
		list[i] = ranked{e, uint32(i)}
	}
	slices.SortStableFunc(list, func(a, b ranked) int { return strings.Compare(a.Key, b.Key) })
	root := w.node(list, 0, "")
	binary.BigEndian.PutUint32(w.out, magic)
	binary.BigEndian.PutUint32(w.out[4:], version)
	binary.BigEndian.PutUint32(w.out[8:], root)
	if len(w.out) > maxOffset {
		return nil, ErrTooLarge
	}
	return w.out, nil
}

// ranked is an entry with the place that it was given in.
type ranked struct {
	Entry
	rank uint32
}

type writer struct{ out []byte }

// node writes the tree of list, whose keys are alike for the first depth letters,
// the last of them in prefix, and returns the word that leads to it.
func (w *writer) node(list []ranked, depth int, prefix string) uint32 {
	here := 0
	for here < len(list) && len(list[here].Key) == depth {
		here++
	}
	values, below := list[:here], list[here:]
	var children []uint32
	if len(below) > 0 {
		first, last := below[0].Key[depth], below[len(below)-1].Key[depth]
		children = make([]uint32, int(last)-int(first)+1)
		for len(below) > 0 {
			letter, n := below[0].Key[depth], 1
			for n < len(below) && below[n].Key[depth] == letter {
				n++
			}
			common := depth + 1 + shared(below[0].Key[depth+1:], below[n-1].Key[depth+1:])
			children[letter-first] = w.node(below[:n], common, below[0].Key[depth+1:common])
			below = below[n:]
		}
		list = list[here:]
	}
	at := uint32(len(w.out))
	if prefix != "" {
		at |= hasPrefix
		w.text(prefix)
	}
	if children != nil {
		at |= hasChildren
		w.out = append(w.out, list[0].Key[depth], list[len(list)-1].Key[depth])
		for _, c := range children {
			w.out = binary.BigEndian.AppendUint32(w.out, c)
		}
	}
	if len(values) > 0 {
		at |= hasValues
		w.out = binary.BigEndian.AppendUint32(w.out, uint32(len(values)))
		for _, v := range values {
			w.out = binary.BigEndian.AppendUint32(w.out, v.rank)
			w.text(v.Value)
		}
	}
	return at
}

func (w *writer) text(s string) { w.out = append(append(w.out, s...), 0) }

// shared is how many letters two texts begin with alike.
func shared(a, b string) int {
	n := 0
	for n < len(a) && n < len(b) && a[n] == b[n] {
		n++
	}
	return n
}
