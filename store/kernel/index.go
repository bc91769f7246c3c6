package kernel

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"banger/store/kernel/modules"
	"banger/store/kernel/modules/trie"
)

// index is what depmod would write about the modules of a kernel: it tells
// modprobe, and a guest's own loader, which files to load for a name.
type index struct {
	dep, alias, soft, node strings.Builder
	deps, aliases          []trie.Entry
}

// newIndex makes the index of the kept modules of set, whose files lie below dir.
func newIndex(ctx context.Context, set *modules.Set, kept []string, dir string) (*index, error) {
	x := &index{}
	for _, p := range kept {
		m, _ := set.Lookup(modules.NameOf(p))
		order, err := set.Order(ctx, m.Name)
		if err != nil {
			return nil, err
		}
		line := depLine(m, order, dir)
		x.dep.WriteString(line + "\n")
		x.deps = append(x.deps, trie.Entry{Key: m.Name, Value: line})
		for _, a := range m.Aliases {
			fmt.Fprintf(&x.alias, "alias %s %s\n", a, m.Name)
			x.aliases = append(x.aliases, trie.Entry{Key: normalAlias(a), Value: m.Name})
		}
		x.addSoft(m)
		x.addNode(m)
		if x.dep.Len()+x.alias.Len()+x.soft.Len()+x.node.Len() > maxIndexBytes {
			return nil, fmt.Errorf("%w: an index of its modules of more than %d bytes", ErrMalformed, maxIndexBytes)
		}
	}
	return x, nil
}

// depLine is a line of modules.dep: what m needs, last needed first.
func depLine(m modules.Module, order []modules.Module, dir string) string {
	var line strings.Builder
	line.WriteString(dir + m.Path + ":")
	for _, o := range slices.Backward(order) {
		if o.Name != m.Name {
			line.WriteString(" " + dir + o.Path)
		}
	}
	return line.String()
}

// addSoft adds the line of modules.softdep.
func (x *index) addSoft(m modules.Module) {
	if len(m.Before)+len(m.After) == 0 {
		return
	}
	fmt.Fprintf(&x.soft, "softdep %s", m.Name)
	if len(m.Before) > 0 {
		x.soft.WriteString(" pre: " + strings.Join(m.Before, " "))
	}
	if len(m.After) > 0 {
		x.soft.WriteString(" post: " + strings.Join(m.After, " "))
	}
	x.soft.WriteString("\n")
}

// addNode adds the line of modules.devname: a device that is there before its
// module is, because opening it is what loads the module.
func (x *index) addNode(m modules.Module) {
	var name, number string
	for _, a := range m.Aliases {
		if n, ok := strings.CutPrefix(a, "devname:"); ok {
			name = n
		}
		for prefix, kind := range map[string]string{"char-major-": "c", "block-major-": "b"} {
			var major, minor uint32
			if n, _ := fmt.Sscanf(a, prefix+"%d-%d", &major, &minor); n == 2 {
				number = fmt.Sprintf("%s%d:%d", kind, major, minor)
			}
		}
	}
	if name != "" && number != "" {
		fmt.Fprintf(&x.node, "%s %s %s\n", m.Name, name, number)
	}
}

// files returns the files of the index by name. Builtin is the kernel package's
// modules.builtin.
func (x *index) files(builtin string) (map[string]string, error) {
	files := map[string]string{
		"modules.dep": x.dep.String(), "modules.alias": x.alias.String(), "modules.softdep": x.soft.String(),
		"modules.devname": x.node.String(), "modules.builtin": builtin,
	}
	var inKernel []trie.Entry
	for line := range strings.Lines(builtin) {
		if name := modules.NameOf(strings.TrimSpace(line)); name != "" {
			inKernel = append(inKernel, trie.Entry{Key: name})
		}
	}
	for name, entries := range map[string][]trie.Entry{
		"modules.dep.bin": x.deps, "modules.alias.bin": x.aliases, "modules.builtin.bin": inKernel,
		"modules.symbols.bin": nil, // modprobe looks nothing up without it
	} {
		data, err := trie.Encode(entries)
		if err != nil {
			return nil, fmt.Errorf("index modules: %w", err)
		}
		files[name] = string(data)
	}
	return files, nil
}

// normalAlias spells an alias as modprobe does before it looks it up: a dash is
// an underscore, but in a range of letters.
func normalAlias(alias string) string {
	b, inRange := []byte(alias), false
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
