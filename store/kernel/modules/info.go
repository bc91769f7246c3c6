// Package modules reads kernel modules and finds out which of them a guest
// needs, and in which order they must be loaded.
//
// Dependencies are taken from the modules themselves (the "depends" and "softdep"
// lines of their .modinfo section), not from modules.dep: a package has none yet,
// because depmod runs only when it is installed.
package modules

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"path"
	"strings"

	"banger/store/kernel/elf64"
)

// Errors of this package, for errors.Is.
var (
	// ErrMalformed means a file that is no kernel module, or a damaged one.
	ErrMalformed = errors.New("malformed kernel module")
	// ErrMissing means that a module needs another that is not there.
	ErrMissing = errors.New("module is missing")
)

// MaxBytes bounds one decompressed module.
const MaxBytes = 64 << 20

const (
	maxModinfo = 1 << 20
	maxDepends = 1024
)

// Module is what a module tells about itself.
type Module struct {
	// Name as the kernel spells it, with underscores.
	Name string
	// Path is relative to the module directory, as in "kernel/fs/ext4/ext4.ko".
	Path string
	// Release is the kernel release that it was built for.
	Release string
	// Depends are the names of modules whose symbols it uses.
	Depends []string
	// Before and After are names or aliases that should be loaded around it, if
	// they exist (softdep).
	Before, After []string
	// Aliases are other names by which the kernel asks for it.
	Aliases []string
}

// Parse reads the module in data, whose file is at path.
func Parse(path string, data []byte) (Module, error) {
	f, err := elf64.Open(bytes.NewReader(data), int64(len(data)))
	if err != nil {
		return Module{}, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	if f.Type != elf64.TypeRelocatable || f.Machine != elf64.MachineX86_64 {
		return Module{}, fmt.Errorf("%w: ELF type %d for machine %d", ErrMalformed, f.Type, f.Machine)
	}
	info, err := f.Section(".modinfo", maxModinfo)
	if err != nil {
		return Module{}, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	if info == nil {
		return Module{}, fmt.Errorf("%w: no .modinfo section", ErrMalformed)
	}
	m := Module{Name: NameOf(path), Path: path}
	for _, line := range strings.Split(string(info), "\x00") {
		m.add(line)
	}
	if len(m.Depends) > maxDepends || len(m.Before)+len(m.After) > maxDepends {
		return Module{}, fmt.Errorf("%w: too many dependencies", ErrMalformed)
	}
	return m, nil
}

// add takes one "key=value" of .modinfo in.
func (m *Module) add(line string) {
	key, value, _ := strings.Cut(line, "=")
	switch key {
	case "depends":
		for _, d := range strings.Split(value, ",") {
			if d != "" {
				m.Depends = append(m.Depends, Canonical(d))
			}
		}
	case "softdep":
		list := &m.Before
		for _, word := range strings.Fields(value) {
			switch word {
			case "pre:":
				list = &m.Before
			case "post:":
				list = &m.After
			default:
				*list = append(*list, Canonical(word))
			}
		}
	case "alias":
		m.Aliases = append(m.Aliases, value)
	case "vermagic":
		m.Release, _, _ = strings.Cut(value, " ")
	}
}

// NameOf returns the name of the module in a file called p, as the kernel spells
// it, or "" if p does not look like a module.
func NameOf(p string) string {
	base, suffix, found := strings.Cut(path.Base(p), ".ko")
	if !found || base == "" {
		return ""
	}
	switch suffix {
	case "", ".xz", ".zst", ".gz":
		return Canonical(base)
	}
	return ""
}

// Canonical spells a module's name as the kernel does.
func Canonical(name string) string { return strings.ReplaceAll(name, "-", "_") }

// signatureMark ends a signed module. Before it is a struct module_signature of twelve
// bytes, which ends with the length of the signature before that, big endian.
const (
	signatureMark  = "~Module signature appended~\n"
	signatureBytes = 12
)

// StripSignature returns module without the signature that is appended to it, if
// there is one. A kernel that does not insist on signatures loads it in less time.
func StripSignature(module []byte) []byte {
	body, found := bytes.CutSuffix(module, []byte(signatureMark))
	if !found || len(body) < signatureBytes {
		return module
	}
	length := uint64(binary.BigEndian.Uint32(body[len(body)-4:]))
	body = body[:len(body)-signatureBytes]
	if length > uint64(len(body)) {
		return module
	}
	return body[:uint64(len(body))-length]
}
