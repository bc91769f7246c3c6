package kernel

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"regexp"
	"strings"
	"sync"

	"banger/store/kernel/decompress"
	"banger/store/kernel/modules"
)

const (
	// imageFile is where the kernel is kept until it is known what it is.
	imageFile = "image"

	maxImageBytes = 1 << 30
	// maxIndexBytes bounds modules.builtin, and what depmod would write of the others:
	// 2 MiB for all modules of Debian's largest kernel.
	maxIndexBytes   = 4 << 20
	maxModulesBytes = 512 << 20
	maxModules      = 1 << 16
	// maxRounds bounds the passes over a package in search of dependencies.
	maxRounds = 16
)

// Where distributions keep things. A kernel in lib/modules is Fedora's and Arch's way.
var (
	kernelPath = sync.OnceValue(func() *regexp.Regexp {
		return regexp.MustCompile(`^(boot/vmlinu[xz]-[^/]+|(usr/)?lib/modules/[^/]+/vmlinuz)$`)
	})
	configPath = sync.OnceValue(func() *regexp.Regexp {
		return regexp.MustCompile(`^(boot/config-[^/]+|(usr/)?lib/modules/[^/]+/config)$`)
	})
	modulePath = sync.OnceValue(func() *regexp.Regexp {
		return regexp.MustCompile(`^(?:usr/)?lib/modules/([^/]+)/([A-Za-z0-9._+,@/-]+)$`)
	})
)

// collector takes what is needed out of the files that come by.
type collector struct {
	root *os.Root
	set  *modules.Set
	// dir is the name of the module directory that files are taken from.
	dir string
	// seen are all modules that came by, by name; wanted decides by path which to keep.
	seen   map[string]string
	wanted func(path string) bool

	image, config bool
	// builtin is the list of built-in modules, nil if there was none.
	builtin []byte
	bytes   int64
}

func newCollector(root *os.Root) *collector {
	return &collector{root: root, set: modules.NewSet(), seen: map[string]string{}, wanted: chosen}
}

// collect walks over trees until nothing is missing that they have: once, if the list
// of wanted modules names all that these depend on.
func (c *collector) collect(ctx context.Context, trees []tree) error {
	for range maxRounds {
		for _, t := range trees {
			if err := t.walk(ctx, c.visit); err != nil {
				return err
			}
		}
		missing := c.missing()
		if len(missing) == 0 {
			return nil
		}
		c.wanted = func(path string) bool { return missing[path] }
	}
	return fmt.Errorf("%w: dependencies of its modules have no end", ErrMalformed)
}

// missing returns the paths of modules that came by, were not kept, and are needed.
func (c *collector) missing() map[string]bool {
	paths := map[string]bool{}
	var names []string
	for _, m := range c.set.All() {
		names = append(names, m.Name)
	}
	for _, name := range c.set.Missing(names...) {
		if p, ok := c.seen[name]; ok {
			paths[p] = true
		}
	}
	return paths
}

// visit looks at one file.
func (c *collector) visit(name string, size int64, r io.Reader) error {
	switch {
	case kernelPath().MatchString(name):
		if c.image {
			return nil
		}
		c.image = true
		return c.save(imageFile, r, maxImageBytes)
	case configPath().MatchString(name):
		if c.config {
			return nil
		}
		c.config = true
		return c.save(configFile, r, maxConfigBytes)
	}
	m := modulePath().FindStringSubmatch(name)
	if m == nil {
		return nil
	}
	if c.dir == "" {
		c.dir = m[1]
	}
	if m[1] != c.dir {
		return fmt.Errorf("%w: modules of two kernels, %q and %q", ErrMismatch, c.dir, m[1])
	}
	if m[2] == "modules.builtin" && c.builtin == nil {
		return c.readBuiltin(r)
	}
	if modules.NameOf(m[2]) == "" {
		return nil
	}
	return c.module(m[2], r)
}

func (c *collector) readBuiltin(r io.Reader) error {
	var list bytes.Buffer
	if _, err := decompress.Copy(&list, r, maxIndexBytes); err != nil {
		return fmt.Errorf("read modules.builtin: %w", err)
	}
	c.builtin = list.Bytes()
	c.set.AddBuiltin(list.String())
	return nil
}

// module notes the module at p, and keeps it if it is wanted.
func (c *collector) module(p string, r io.Reader) error {
	name := modules.NameOf(p)
	if len(c.seen) > maxModules {
		return fmt.Errorf("%w: more than %d modules", ErrMalformed, maxModules)
	}
	if _, ok := c.seen[name]; !ok {
		c.seen[name] = p
	}
	if _, ok := c.set.Lookup(name); ok || !c.wanted(p) {
		return nil
	}
	data, err := readModule(r)
	if err != nil {
		return fmt.Errorf("read module %s: %w", p, err)
	}
	m, err := modules.Parse(plainPath(p), data)
	if err != nil {
		return fmt.Errorf("read module %s: %w", p, err)
	}
	if c.bytes += int64(len(data)); c.bytes > maxModulesBytes {
		return fmt.Errorf("%w: modules of more than %d bytes", ErrMalformed, maxModulesBytes)
	}
	c.set.Add(m)
	return c.save(path.Join(ModulesDir, m.Path), bytes.NewReader(data), modules.MaxBytes)
}

// readModule returns a module, decompressed.
func readModule(r io.Reader) ([]byte, error) {
	zr, _, err := decompress.NewReader(r)
	if err != nil {
		return nil, err
	}
	defer zr.Close()
	var data bytes.Buffer
	if _, err := decompress.Copy(&data, zr, modules.MaxBytes); err != nil {
		return nil, err
	}
	return data.Bytes(), nil
}

// plainPath is p without the suffix of a compression.
func plainPath(p string) string { return p[:strings.LastIndex(p, ".ko")] + ".ko" }

// save writes what r gives to a new file.
func (c *collector) save(name string, r io.Reader, limit int64) error {
	return saveFile(c.root, name, func(w io.Writer) error {
		_, err := decompress.Copy(w, r, limit)
		return err
	})
}

// saveFile makes a new file in root, and the directories above it, and lets fill
// write it.
func saveFile(root *os.Root, name string, fill func(io.Writer) error) error {
	if err := root.MkdirAll(path.Dir(name), 0o700); err != nil {
		return err
	}
	f, err := root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	return errors.Join(fill(f), f.Close())
}
