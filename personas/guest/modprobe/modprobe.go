// Package modprobe loads kernel modules in a guest: those of the initrd for its
// first process, and later, where an image has no modprobe of its own, those that
// the kernel asks for.
package modprobe

import (
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// Dir is where the modules of a kernel and their index are.
func Dir(release string) string { return filepath.Join("/lib/modules", release) }

// LoadFile loads the module in a file. One that is loaded already is no error.
func LoadFile(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	err = unix.FinitModule(int(f.Fd()), "", 0)
	if err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("load module %q: %w", path, err)
	}
	return nil
}

// Dependencies returns the files that modules.dep, whose text is table, says to
// load for a module, in the order to load them.
func Dependencies(table, module string) []string {
	for line := range strings.Lines(table) {
		file, needs, ok := strings.Cut(strings.TrimSpace(line), ":")
		if !ok || canonical(strings.TrimSuffix(filepath.Base(file), ".ko")) != canonical(module) {
			continue
		}
		// What is needed first stands last.
		list := append([]string{file}, strings.Fields(needs)...)
		slices.Reverse(list)
		return list
	}
	return nil
}

// aliased returns the modules that modules.alias, whose text is table, has for a
// name by which the kernel asks, such as "fs-overlay" or "rtnl-link-bridge".
func aliased(table, name string) (modules []string) {
	name = canonical(name)
	for line := range strings.Lines(table) {
		fields := strings.Fields(line)
		if len(fields) != 3 || fields[0] != "alias" {
			continue
		}
		// A broken pattern matches nothing.
		if ok, _ := path.Match(canonical(fields[1]), name); ok && !slices.Contains(modules, fields[2]) {
			modules = append(modules, fields[2])
		}
	}
	return modules
}

// canonical spells a name as the kernel does: a dash is an underscore, but in a
// range of letters.
func canonical(name string) string {
	b, inRange := []byte(name), false
	for i, c := range b {
		switch {
		case c == '[':
			inRange = true
		case c == ']':
			inRange = false
		case c == '-' && !inRange:
			b[i] = '_'
		}
	}
	return string(b)
}

// Load loads the modules that name stands for, and what they need, out of the
// modules in dir.
func Load(dir, name string) error {
	table, err := os.ReadFile(filepath.Join(dir, "modules.dep"))
	if err != nil {
		return err
	}
	modules := []string{name}
	if Dependencies(string(table), name) == nil {
		aliases, err := os.ReadFile(filepath.Join(dir, "modules.alias"))
		if err != nil {
			return err
		}
		if modules = aliased(string(aliases), name); len(modules) == 0 {
			return fmt.Errorf("load module %q: %w", name, os.ErrNotExist)
		}
	}
	var errs []error
	for _, m := range modules {
		for _, file := range Dependencies(string(table), m) {
			errs = append(errs, LoadFile(filepath.Join(dir, file)))
		}
	}
	return errors.Join(errs...)
}
