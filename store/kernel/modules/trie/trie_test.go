package trie

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

// find looks key up as kmod does, and returns the values in the order found.
func find(t *testing.T, index []byte, key string) []string {
	t.Helper()
	word := func(at uint32) uint32 { return binary.BigEndian.Uint32(index[at:]) }
	text := func(at uint32) (string, uint32) {
		n := strings.IndexByte(string(index[at:]), 0)
		return string(index[at : at+uint32(n)]), at + uint32(n) + 1
	}
	if word(0) != magic || word(4) != version {
		t.Fatalf("the file begins with %x", index[:8])
	}
	for node := word(8); node != 0; {
		at := node & maxOffset
		if node&hasPrefix != 0 {
			var prefix string
			prefix, at = text(at)
			if !strings.HasPrefix(key, prefix) {
				return nil
			}
			key = key[len(prefix):]
		}
		var next uint32
		if node&hasChildren != 0 {
			first, last := index[at], index[at+1]
			if key != "" && key[0] >= first && key[0] <= last {
				next = word(at + 2 + 4*uint32(key[0]-first))
			}
			at += 2 + 4*(uint32(last-first)+1)
		}
		if key != "" {
			key, node = key[1:], next
			continue
		}
		if node&hasValues == 0 {
			return nil
		}
		count := word(at)
		at += 4
		var values []string
		for range count {
			var v string
			v, at = text(at + 4)
			values = append(values, v)
		}
		return values
	}
	return nil
}

func TestEncode(t *testing.T) {
	var entries []Entry
	want := map[string][]string{}
	random := rand.New(rand.NewPCG(1, 2))
	for i := range 3000 {
		key := make([]byte, random.IntN(8))
		for j := range key {
			key[j] = "ab*-"[random.IntN(4)]
		}
		e := Entry{string(key), fmt.Sprint(i)}
		entries = append(entries, e)
		want[e.Key] = append(want[e.Key], e.Value)
	}
	index, err := Encode(entries)
	if err != nil {
		t.Fatal(err)
	}
	for key, values := range want {
		if got := find(t, index, key); !slices.Equal(got, values) {
			t.Errorf("%q leads to %q, want %q", key, got, values)
		}
	}
	for _, key := range []string{"c", "abababab*", "aaaaaaaaaaaa"} {
		if got := find(t, index, key); got != nil {
			t.Errorf("%q leads to %q", key, got)
		}
	}
	if index, err = Encode(nil); err != nil || find(t, index, "a") != nil || find(t, index, "") != nil {
		t.Errorf("an empty index: %v", err)
	}
}

func TestEncodeRefuses(t *testing.T) {
	for _, e := range []Entry{{"ä", ""}, {"a\x00b", ""}, {"\x7f", ""}, {"a", "b\x00"}} {
		if _, err := Encode([]Entry{e}); !errors.Is(err, ErrKey) {
			t.Errorf("%q: got %v", e, err)
		}
	}
}
