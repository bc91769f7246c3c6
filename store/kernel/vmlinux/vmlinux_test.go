package vmlinux

import (
	"bytes"
	"encoding/binary"
	"errors"
	"strings"
	"testing"

	"banger/store/kernel/kerneltest"
)

const version = "6.1.0-test (builder@host) (gcc) #1 SMP"

func inspect(data []byte) (Image, error) {
	return Inspect(bytes.NewReader(data), int64(len(data)))
}

func embedded(config string) []byte {
	return append(append([]byte("IKCFG_ST"), kerneltest.Gzip([]byte(config))...), "IKCFG_ED"...)
}

func TestInspect(t *testing.T) {
	for _, pvh := range []bool{true, false} {
		im, err := inspect(kerneltest.Vmlinux(kerneltest.Machine, version, pvh, embedded("CONFIG_A=y\n")))
		if err != nil {
			t.Fatal(err)
		}
		if im.Version != version || im.PVH != pvh || string(im.Config) != "CONFIG_A=y\n" {
			t.Errorf("got %q, %v, %q", im.Version, im.PVH, im.Config)
		}
	}
}

// TestInspectFindsWhatLiesAcrossWindows puts the configuration where two of the
// windows meet.
func TestInspectFindsWhatLiesAcrossWindows(t *testing.T) {
	for _, at := range []int{window - 10, window, 2*window - 3} {
		extra := append(make([]byte, at-300), embedded("CONFIG_A=y\n")...)
		im, err := inspect(kerneltest.Vmlinux(kerneltest.Machine, version, true, extra))
		if err != nil || string(im.Config) != "CONFIG_A=y\n" {
			t.Errorf("at %d: got %q, error %v", at, im.Config, err)
		}
	}
}

func TestInspectTakesDamagedConfigForNone(t *testing.T) {
	extra := append([]byte("IKCFG_ST\x1f\x8b"), strings.Repeat("rubbish", 10)...)
	if im, err := inspect(kerneltest.Vmlinux(kerneltest.Machine, version, true, extra)); err != nil || im.Config != nil {
		t.Errorf("got %q, error %v", im.Config, err)
	}
}

func TestInspectRefuses(t *testing.T) {
	good := kerneltest.Vmlinux(kerneltest.Machine, version, true, nil)
	change := func(at int, value uint64) []byte {
		data := bytes.Clone(good)
		binary.LittleEndian.PutUint64(data[at:], value)
		return data
	}
	class32 := bytes.Clone(good)
	class32[4], class32[18] = 1, 3
	const segment = 64
	for _, c := range []struct {
		name string
		data []byte
		want error
	}{
		{"nothing", nil, ErrMalformed},
		{"text", bytes.Repeat([]byte("text "), 100), ErrMalformed},
		{"only a header", good[:60], ErrMalformed},
		{"cut off", good[:200], ErrMalformed},
		{"arm64", kerneltest.Vmlinux(183, version, true, nil), ErrArch},
		{"unknown machine", kerneltest.Vmlinux(4711, version, true, nil), ErrArch},
		{"32 bits", class32, ErrArch},
		{"module", kerneltest.Module("depends="), ErrMalformed},
		{"segment beyond the end", change(segment+8, 1<<40), ErrMalformed},
		{"segment that wraps around", change(segment+32, ^uint64(0)-100), ErrMalformed},
		{"more file than memory", change(segment+40, 1), ErrMalformed},
		{"too much memory", change(segment+40, 1<<40), ErrMalformed},
		{"entry outside", change(24, 0x2000), ErrMalformed},
	} {
		t.Run(c.name, func(t *testing.T) {
			if _, err := inspect(c.data); !errors.Is(err, c.want) {
				t.Errorf("got error %v, want %v", err, c.want)
			}
		})
	}
}

// FuzzInspect checks that no file makes the reader panic.
func FuzzInspect(f *testing.F) {
	f.Add(kerneltest.Vmlinux(kerneltest.Machine, version, true, embedded("CONFIG_A=y\n")))
	f.Add(kerneltest.Module("depends="))
	f.Fuzz(func(t *testing.T, data []byte) {
		im, err := inspect(data)
		if err == nil && len(im.Config) > maxConfig {
			t.Errorf("configuration of %d bytes", len(im.Config))
		}
	})
}
