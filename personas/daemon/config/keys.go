package config

import (
	"errors"
	"fmt"
	"math"
	"regexp"
	"strconv"
	"sync"

	"github.com/docker/go-units"

	"banger/personas/api"
)

// key is one row of what the file may have at its top level: how its value is read
// into a spec, shown, and taken from one spec into another.
type key struct {
	name string
	read func(*api.VMSpec, any) error
	show func(*api.VMSpec) string // empty where the spec says nothing of it
	take func(to, from *api.VMSpec)
}

// keys is every key but file_sync. They are named as the flags are.
var keys = []key{
	{"cpus", readCPUs,
		func(s *api.VMSpec) string { return number(s.CPUs) },
		func(to, from *api.VMSpec) { to.CPUs = from.CPUs }},
	{"memory", readMemory,
		func(s *api.VMSpec) string { return bytes(int64(s.MemMiB) * units.MiB) },
		func(to, from *api.VMSpec) { to.MemMiB = from.MemMiB }},
	{"disk", readDisk,
		func(s *api.VMSpec) string { return bytes(s.DiskBytes) },
		func(to, from *api.VMSpec) { to.DiskBytes = from.DiskBytes }},
	word("image", func(s *api.VMSpec) *string { return &s.Image }),
	word("kernel", func(s *api.VMSpec) *string { return &s.Kernel }),
	word("net", func(s *api.VMSpec) *api.Net { return &s.Net }),
	word("vmm", func(s *api.VMSpec) *api.VMM { return &s.VMM }),
	word("backend", func(s *api.VMSpec) *api.Backend { return &s.Backend }),
}

func find(name string) *key {
	for i := range keys {
		if keys[i].name == name {
			return &keys[i]
		}
	}
	return nil
}

func names() []string {
	list := make([]string, len(keys))
	for i, k := range keys {
		list[i] = k.name
	}
	return list
}

// word is the row of a key whose value is a word of the spec.
func word[T ~string](name string, field func(*api.VMSpec) *T) key {
	return key{
		name,
		func(s *api.VMSpec, v any) error {
			text, ok := v.(string)
			if !ok || text == "" {
				return errors.New("want a string that is not empty")
			}
			var only api.VMSpec
			*field(&only) = T(text)
			*field(s) = T(text)
			return only.Validate()
		},
		func(s *api.VMSpec) string { return string(*field(s)) },
		func(to, from *api.VMSpec) { *field(to) = *field(from) },
	}
}

func readCPUs(s *api.VMSpec, v any) error {
	n, ok := v.(int64)
	if !ok || n < 1 || n > api.MaxCPUs {
		return fmt.Errorf("want a number from 1 to %d", api.MaxCPUs)
	}
	s.CPUs = int(n)
	return nil
}

func readMemory(s *api.VMSpec, v any) error {
	n, err := readSize(v)
	if err != nil {
		return err
	}
	mib := (n-1)/units.MiB + 1
	if mib < api.MinMemMiB || mib > api.MaxMemMiB {
		return fmt.Errorf("%s: want %d MiB to %d GiB", bytes(n), api.MinMemMiB, api.MaxMemMiB>>10)
	}
	s.MemMiB = int(mib)
	return nil
}

func readDisk(s *api.VMSpec, v any) error {
	n, err := readSize(v)
	if err != nil {
		return err
	}
	s.DiskBytes = n
	return (&api.VMSpec{DiskBytes: n}).Validate()
}

var sizePattern = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`(?i)^[0-9]{1,12}(\.[0-9]{1,9})?[kmgt](i?b)?$`) })

// readSize reads a number of bytes with a unit. One without is nobody's: what is
// bytes here is MiB there.
func readSize(v any) (int64, error) {
	text, ok := v.(string)
	if !ok || !sizePattern().MatchString(text) {
		return 0, errors.New(`want a string with a unit, such as "512m" or "2GiB"`)
	}
	n, err := units.RAMInBytes(text)
	if err != nil || n < 1 || n == math.MaxInt64 {
		return 0, fmt.Errorf("%q is no size", text)
	}
	return n, nil
}

func number(n int) string {
	if n == 0 {
		return ""
	}
	return strconv.Itoa(n)
}

// bytes is n as readSize reads it, without a loss.
func bytes(n int64) string {
	switch {
	case n == 0:
		return ""
	case n%units.GiB == 0:
		return fmt.Sprintf("%dGiB", n/units.GiB)
	case n%units.MiB == 0:
		return fmt.Sprintf("%dMiB", n/units.MiB)
	}
	return fmt.Sprintf("%dKiB", (n+1023)/1024)
}
