package kernel

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"

	"banger/store/kernel/modules"
)

// writeIndex writes modules.dep, modules.alias and modules.builtin.
func writeIndex(root *os.Root, set *modules.Set, kept Modules, builtin []byte) error {
	var dep, alias strings.Builder
	for _, list := range [][]string{kept.Boot, kept.OnDemand, kept.Extra} {
		for _, p := range list {
			m, _ := set.Lookup(modules.NameOf(p))
			order, err := set.Order(m.Name)
			if err != nil {
				return err
			}
			dep.WriteString(depLine(m, order))
			for _, a := range m.Aliases {
				fmt.Fprintf(&alias, "alias %s %s\n", a, m.Name)
			}
		}
	}
	for name, text := range map[string]string{
		"modules.dep": dep.String(), "modules.alias": alias.String(), "modules.builtin": string(builtin),
	} {
		err := saveFile(root, path.Join(ModulesDir, name), func(w io.Writer) error {
			_, err := io.WriteString(w, text)
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// depLine is a line of modules.dep: what m needs, last needed first.
func depLine(m modules.Module, order []modules.Module) string {
	line := m.Path + ":"
	for i := len(order) - 1; i >= 0; i-- {
		if order[i].Name != m.Name {
			line += " " + order[i].Path
		}
	}
	return line + "\n"
}

// loadConfig returns the configuration: of the package, else the given file, else
// the kernel's own. It is nil if there is none.
func (c *collector) loadConfig(file string, embedded []byte) (config, error) {
	switch {
	case c.config:
	case file != "":
		f, err := os.Open(file)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		if err := c.save(ConfigFile, f, maxConfigBytes); err != nil {
			return nil, err
		}
	case embedded != nil:
		if err := c.save(ConfigFile, strings.NewReader(string(embedded)), maxConfigBytes); err != nil {
			return nil, err
		}
	default:
		return nil, nil
	}
	text, err := fs.ReadFile(c.root.FS(), ConfigFile)
	if err != nil {
		return nil, err
	}
	return parseConfig(string(text))
}

// measure sets the digest and the size.
func (i *Info) measure(ctx context.Context, root *os.Root) error {
	sum := sha256.New()
	files := []string{VmlinuxFile}
	for _, list := range [][]string{i.Modules.Boot, i.Modules.OnDemand, i.Modules.Extra} {
		for _, p := range list {
			files = append(files, path.Join(ModulesDir, p))
		}
	}
	for _, name := range files {
		if err := addFile(ctx, root, name, sum); err != nil {
			return err
		}
	}
	i.Digest = "sha256:" + hex.EncodeToString(sum.Sum(nil))
	return fs.WalkDir(root.FS(), ".", func(name string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() {
			return err
		}
		stat, err := entry.Info()
		if err == nil {
			i.SizeBytes += stat.Size()
		}
		return err
	})
}

// addFile adds name, size and content of a file to a digest, so that no two lists
// of files give the same bytes.
func addFile(ctx context.Context, root *os.Root, name string, sum io.Writer) error {
	f, err := root.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	stat, err := f.Stat()
	if err != nil {
		return err
	}
	fmt.Fprintf(sum, "%s\x00%d\x00", name, stat.Size())
	_, err = io.Copy(sum, withContext(ctx, f))
	return err
}
