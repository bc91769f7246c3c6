package modules

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// ErrCycle means modules that wait for one another.
var ErrCycle = errors.New("modules depend on one another")

const (
	// maxDepth bounds the length of a chain of dependencies.
	maxDepth = 64
	// maxOrder bounds how many modules are loaded for one. Of Debian's none takes
	// more than 27.
	maxOrder = 256
)

// Set is a set of modules in which names and aliases can be looked up.
type Set struct {
	byName  map[string]Module
	byAlias map[string]string // the first module, by name
	builtin map[string]bool
}

// NewSet returns an empty set.
func NewSet() *Set {
	return &Set{byName: map[string]Module{}, byAlias: map[string]string{}, builtin: map[string]bool{}}
}

// Add adds a module; a second one of the same name is ignored.
func (s *Set) Add(m Module) {
	if _, ok := s.byName[m.Name]; ok {
		return
	}
	s.byName[m.Name] = m
	for _, a := range m.Aliases {
		a = Canonical(a)
		if first, ok := s.byAlias[a]; !ok || m.Name < first {
			s.byAlias[a] = m.Name
		}
	}
}

// AddBuiltin notes the modules that are part of the kernel, from the content of
// a modules.builtin file: one path a line.
func (s *Set) AddBuiltin(list string) {
	for _, line := range strings.Split(list, "\n") {
		if name := NameOf(strings.TrimSpace(line)); name != "" {
			s.builtin[name] = true
		}
	}
}

// Builtin tells whether the module called name is part of the kernel.
func (s *Set) Builtin(name string) bool { return s.builtin[Canonical(name)] }

// Lookup returns the module called name.
func (s *Set) Lookup(name string) (Module, bool) {
	m, ok := s.byName[Canonical(name)]
	return m, ok
}

// All returns every module, by path.
func (s *Set) All() []Module {
	return slices.SortedFunc(maps.Values(s.byName), func(a, b Module) int { return strings.Compare(a.Path, b.Path) })
}

// Order returns the modules called names and all that they depend on, in an order
// in which they can be loaded, nearest to the order of names. Names that are built
// in, or that nobody provides, are left out. What a module of the set depends on must
// be there or built in: ErrMissing otherwise. It is ErrMalformed if there are too many.
func (s *Set) Order(ctx context.Context, names ...string) ([]Module, error) {
	o := ordering{set: s, done: map[string]bool{}, open: map[string]bool{}}
	for _, name := range names {
		if m, ok := s.Lookup(name); ok {
			if err := o.visit(ctx, m, 0); err != nil {
				return nil, err
			}
		}
	}
	return o.order, nil
}

// Missing returns the names of modules that those called names depend on, directly
// or not, and that are neither in the set nor built in. Names that soft dependencies
// may mean are among them, whether or not such a module exists anywhere.
func (s *Set) Missing(names ...string) []string {
	seen, missing := map[string]bool{}, map[string]bool{}
	var walk func(name string)
	walk = func(name string) {
		name = Canonical(name)
		if seen[name] || s.builtin[name] {
			return
		}
		seen[name] = true
		m, ok := s.byName[name]
		if !ok {
			missing[name] = true
			return
		}
		for _, d := range m.Depends {
			walk(d)
		}
		for _, alias := range slices.Concat(m.Before, m.After) {
			if p, ok := s.provider(alias); ok {
				walk(p.Name)
			} else {
				walk(alias)
				walk(alias + "_generic")
			}
		}
	}
	for _, name := range names {
		if _, ok := s.Lookup(name); ok {
			walk(name)
		}
	}
	return slices.Sorted(maps.Keys(missing))
}

// ordering is one depth-first walk.
type ordering struct {
	set        *Set
	done, open map[string]bool
	order      []Module
}

func (o *ordering) visit(ctx context.Context, m Module, depth int) error {
	if err := ctx.Err(); err != nil || o.done[m.Name] {
		return err
	}
	if o.open[m.Name] || depth > maxDepth {
		return fmt.Errorf("%w: %s", ErrCycle, m.Name)
	}
	o.open[m.Name] = true
	defer delete(o.open, m.Name)
	for _, d := range m.Depends {
		if err := o.need(ctx, m, d, depth); err != nil {
			return err
		}
	}
	for _, alias := range m.Before {
		if err := o.wish(ctx, alias, depth); err != nil {
			return err
		}
	}
	if len(o.order) == maxOrder {
		return fmt.Errorf("%w: more than %d modules depend on one another", ErrMalformed, maxOrder)
	}
	o.done[m.Name] = true
	o.order = append(o.order, m)
	for _, alias := range m.After {
		if err := o.wish(ctx, alias, depth); err != nil {
			return err
		}
	}
	return nil
}

// need visits a module without which m cannot be loaded.
func (o *ordering) need(ctx context.Context, m Module, name string, depth int) error {
	if o.set.builtin[name] {
		return nil
	}
	d, ok := o.set.byName[name]
	if !ok {
		return fmt.Errorf("%w: %s, needed by %s", ErrMissing, name, m.Name)
	}
	return o.visit(ctx, d, depth+1)
}

// wish visits the module that best provides a soft dependency, if there is one:
// the one of that name, else the generic one of several (crc32c has a generic
// implementation, and others that only some processors can load), else the first.
// One that is being visited already is not waited for.
func (o *ordering) wish(ctx context.Context, alias string, depth int) error {
	m, ok := o.set.provider(alias)
	if !ok || o.open[m.Name] {
		return nil
	}
	if err := o.visit(ctx, m, depth+1); !errors.Is(err, ErrMissing) {
		return err
	}
	return nil
}

func (s *Set) provider(alias string) (Module, bool) {
	if s.builtin[alias] || s.builtin[alias+"_generic"] {
		return Module{}, false
	}
	for _, name := range []string{alias, alias + "_generic"} {
		if m, ok := s.byName[name]; ok {
			return m, true
		}
	}
	first, ok := s.byAlias[alias]
	return s.byName[first], ok
}
