package elf64_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"testing"

	"banger/store/kernel/elf64"
	"banger/store/kernel/kerneltest"
)

func open(t *testing.T, data []byte) *elf64.File {
	t.Helper()
	f, err := elf64.Open(bytes.NewReader(data), int64(len(data)))
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func TestSection(t *testing.T) {
	f := open(t, kerneltest.Module("depends=a"))
	if f.Type != elf64.TypeRelocatable || f.Machine != elf64.MachineX86_64 || !f.Class64 || !f.LittleEndian {
		t.Errorf("got %+v", f)
	}
	if data, err := f.Section(".modinfo", 100); err != nil || string(data) != "depends=a\x00" {
		t.Errorf("got %q, error %v", data, err)
	}
	if data, err := f.Section(".text", 100); err != nil || data != nil {
		t.Errorf("missing section: got %q, error %v", data, err)
	}
	if _, err := f.Section(".modinfo", 5); !errors.Is(err, elf64.ErrMalformed) {
		t.Errorf("section beyond the limit: got error %v", err)
	}
}

func TestHasPVH(t *testing.T) {
	for _, want := range []bool{true, false} {
		if got := open(t, kerneltest.Vmlinux(kerneltest.Machine, "6.1", want, nil)).HasPVH(); got != want {
			t.Errorf("got %v, want %v", got, want)
		}
	}
	// A note whose sizes add up to more than there is, counted in 32 bits.
	data := kerneltest.Vmlinux(kerneltest.Machine, "6.1", true, nil)
	note := bytes.LastIndex(data, []byte("Xen\x00")) - 12
	binary.LittleEndian.PutUint64(data[note:], 0xfffffffcfffffffc)
	if open(t, data).HasPVH() {
		t.Error("a note beyond the end of its segment was believed")
	}
}

func TestOpenRefuses(t *testing.T) {
	good := kerneltest.Vmlinux(kerneltest.Machine, "6.1", true, nil)
	change := func(at int, b ...byte) []byte {
		data := bytes.Clone(good)
		copy(data[at:], b)
		return data
	}
	for name, c := range map[string]struct {
		data []byte
		want error
	}{
		"nothing":            {nil, elf64.ErrNotELF},
		"text":               {bytes.Repeat([]byte("text "), 20), elf64.ErrNotELF},
		"cut off":            {good[:63], elf64.ErrMalformed},
		"odd segment size":   {change(54, 32), elf64.ErrMalformed},
		"too many segments":  {change(56, 0xff, 0xff), elf64.ErrMalformed},
		"segments elsewhere": {change(32, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff), elf64.ErrMalformed},
	} {
		if _, err := elf64.Open(bytes.NewReader(c.data), int64(len(c.data))); !errors.Is(err, c.want) {
			t.Errorf("%s: got error %v, want %v", name, err, c.want)
		}
	}
}

// FuzzOpen checks that no file makes the reader panic.
func FuzzOpen(f *testing.F) {
	f.Add(kerneltest.Module("depends=a"))
	f.Add(kerneltest.Vmlinux(kerneltest.Machine, "6.1", true, nil))
	f.Fuzz(func(t *testing.T, data []byte) {
		file, err := elf64.Open(bytes.NewReader(data), int64(len(data)))
		if err != nil {
			return
		}
		file.HasPVH()
		if section, err := file.Section(".modinfo", 1<<20); err == nil && len(section) > len(data) {
			t.Errorf("section of %d bytes in a file of %d", len(section), len(data))
		}
	})
}
