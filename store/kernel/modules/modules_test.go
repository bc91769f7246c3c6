package modules

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"banger/store/kernel/kerneltest"
)

func TestParse(t *testing.T) {
	data := kerneltest.Module("license=GPL", "softdep=pre: crc32c aes-generic post: late", "alias=fs-ext4", "alias=ext3",
		"depends=jbd2,crc16,mb-cache", "vermagic=6.1.0-13-amd64 SMP preempt mod_unload ")
	m, err := Parse("kernel/fs/ext4/ext4.ko", data)
	if err != nil {
		t.Fatal(err)
	}
	if m.Name != "ext4" || m.Release != "6.1.0-13-amd64" ||
		!slices.Equal(m.Depends, []string{"jbd2", "crc16", "mb_cache"}) ||
		!slices.Equal(m.Before, []string{"crc32c", "aes_generic"}) || !slices.Equal(m.After, []string{"late"}) ||
		!slices.Equal(m.Aliases, []string{"fs-ext4", "ext3"}) {
		t.Errorf("got %+v", m)
	}
}

func TestParseRefuses(t *testing.T) {
	good := kerneltest.Module("depends=")
	for name, data := range map[string][]byte{
		"nothing":      nil,
		"text":         bytes.Repeat([]byte("text "), 100),
		"cut off":      good[:len(good)-70],
		"a kernel":     kerneltest.Vmlinux(kerneltest.Machine, "6.1", true, nil),
		"no .modinfo":  bytes.Replace(good, []byte(".modinfo"), []byte(".modfino"), 1),
		"dependencies": kerneltest.Module("depends=" + strings.Repeat("a,", maxDepends+1)),
	} {
		if _, err := Parse("a.ko", data); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: got error %v, want %v", name, err, ErrMalformed)
		}
	}
}

func TestNameOf(t *testing.T) {
	for file, want := range map[string]string{
		"kernel/drivers/virtio-rng.ko": "virtio_rng", "a/b.ko.xz": "b", "b.ko.zst": "b", "b.ko.gz": "b",
		"b.ko.bak": "", ".ko": "", "modules.dep": "", "b.kot": "",
	} {
		if got := NameOf(file); got != want {
			t.Errorf("%s is module %q, want %q", file, got, want)
		}
	}
}

// set makes a set of lines such as "a: b c" (a depends on b and c).
func set(lines ...string) *Set {
	s := NewSet()
	for _, line := range lines {
		name, depends, _ := strings.Cut(line, ":")
		s.Add(Module{Name: name, Path: name + ".ko", Depends: strings.Fields(depends)})
	}
	return s
}

func order(list []Module) string {
	var names []string
	for _, m := range list {
		names = append(names, m.Name)
	}
	return strings.Join(names, " ")
}

func TestOrder(t *testing.T) {
	soft := set("ext4: jbd2", "jbd2:")
	for _, m := range []Module{
		{Name: "user", Before: []string{"crc32c"}, After: []string{"tail"}}, {Name: "tail"},
		{Name: "crc32c_generic", Aliases: []string{"crc32c"}}, {Name: "crc32c_intel", Aliases: []string{"crc32c"}},
		{Name: "by_alias", Before: []string{"fs_a"}}, {Name: "b_provider", Aliases: []string{"fs-a"}}, {Name: "a_provider", Aliases: []string{"fs-a"}},
		{Name: "loop", Before: []string{"loop"}}, {Name: "nobody", Before: []string{"nothing"}},
		{Name: "lame", Before: []string{"broken"}}, {Name: "broken", Depends: []string{"gone"}},
	} {
		soft.Add(m)
	}
	builtin := set("net: failover", "blk:")
	builtin.AddBuiltin("kernel/net/core/failover.ko\nkernel/crypto/crc32c_generic.ko\n")
	builtin.Add(Module{Name: "sum", Before: []string{"crc32c"}})
	builtin.Add(Module{Name: "crc32c_intel", Aliases: []string{"crc32c"}})
	for _, c := range []struct {
		name string
		set  *Set
		ask  string
		want string
		err  error
	}{
		{"needed first", set("net: virtio failover", "failover:", "virtio: ring", "ring:"), "net", "ring virtio failover net", nil},
		{"each once, in the order asked", set("a: c", "b: c", "c:"), "b a", "c b a", nil},
		{"unknown names are left out", set("a:"), "x a y", "a", nil},
		{"spelled with a dash", set("virtio_rng:"), "virtio-rng", "virtio_rng", nil},
		{"built in is there already", builtin, "net blk", "net blk", nil},
		{"built in serves a soft dependency", builtin, "sum", "sum", nil},
		{"soft dependency: the generic one", soft, "user", "crc32c_generic user tail", nil},
		{"soft dependency: the first of an alias", soft, "by_alias", "a_provider by_alias", nil},
		{"soft dependency on itself", soft, "loop", "loop", nil},
		{"soft dependency on nothing", soft, "nobody", "nobody", nil},
		{"soft dependency that cannot be loaded", soft, "lame", "lame", nil},
		{"missing", set("a: b", "b: gone"), "a", "", ErrMissing},
		{"cycle", set("a: b", "b: c", "c: a"), "a", "", ErrCycle},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := c.set.Order(t.Context(), strings.Fields(c.ask)...)
			if order(got) != c.want || !errors.Is(err, c.err) {
				t.Errorf("got %q, error %v; want %q, %v", order(got), err, c.want, c.err)
			}
		})
	}
}

func TestOrderIsBounded(t *testing.T) {
	many := NewSet()
	var names []string
	for i := range maxOrder {
		names = append(names, fmt.Sprint("m", i))
		many.Add(Module{Name: names[i]})
	}
	many.Add(Module{Name: "all", Depends: names})
	many.Add(Module{Name: "all_but_one", Depends: names[1:]})
	if list, err := many.Order(t.Context(), "all_but_one"); err != nil || len(list) != maxOrder {
		t.Errorf("got %d modules, error %v", len(list), err)
	}
	if _, err := many.Order(t.Context(), "all"); !errors.Is(err, ErrMalformed) {
		t.Errorf("got error %v, want %v", err, ErrMalformed)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := many.Order(ended, "m0"); !errors.Is(err, context.Canceled) {
		t.Errorf("got error %v, want %v", err, context.Canceled)
	}
}

func TestMissing(t *testing.T) {
	s := set("a: b c", "b: d", "x: y")
	s.AddBuiltin("kernel/c.ko")
	s.Add(Module{Name: "soft", Before: []string{"crc32c"}})
	if got := s.Missing("a"); !slices.Equal(got, []string{"d"}) {
		t.Errorf("got %v", got)
	}
	if got := s.Missing("soft", "unknown"); !slices.Equal(got, []string{"crc32c", "crc32c_generic"}) {
		t.Errorf("got %v", got)
	}
}

// TestStripSignature compares with what the kernel's own layout says.
func TestStripSignature(t *testing.T) {
	plain := kerneltest.Module("depends=")
	signed := append(bytes.Clone(plain), bytes.Repeat([]byte{0x30}, 300)...)
	signed = append(signed, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 1, 44)
	signed = append(signed, signatureMark...)
	if got := StripSignature(signed); !bytes.Equal(got, plain) {
		t.Errorf("%d bytes remain, want %d", len(got), len(plain))
	}
	for name, data := range map[string][]byte{
		"no signature": plain, "nothing": nil, "only a mark": []byte(signatureMark),
		"longer than the file": append(bytes.Repeat([]byte{0xff}, 12), signatureMark...),
	} {
		if got := StripSignature(data); !bytes.Equal(got, data) {
			t.Errorf("%s: changed", name)
		}
	}
}

// FuzzParse checks that no file makes the reader panic.
func FuzzParse(f *testing.F) {
	f.Add(kerneltest.Module("depends=a,b", "softdep=pre: c", "vermagic=6.1 SMP"))
	f.Fuzz(func(t *testing.T, data []byte) {
		m, err := Parse("kernel/a.ko", data)
		if err != nil {
			return
		}
		s := NewSet()
		s.Add(m)
		s.Missing(m.Name)
		if list, err := s.Order(t.Context(), m.Name); err == nil && len(list) != 1 {
			t.Errorf("order of one module has %d", len(list))
		}
	})
}
