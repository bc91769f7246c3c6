// Package inventory lists everything on a host that is banger's: the leak
// oracle. It prints the same before a VM is made and after it is gone.
//
// It reads the kernel and the file system and nothing else: no record of
// banger's is asked, because what a record has forgotten is what is looked for.
// It needs no right of its own; what it may not read, it says. What is inside
// banger's network namespace is for whoever is inside to list.
package inventory

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Scope says where to look and what is banger's.
type Scope struct {
	// Root is where /proc, /sys and the rest are. Empty means "/".
	Root string

	// Name is how everything of banger's is called, or begins to be called.
	// Empty means "banger".
	Name string

	// Jails are directories in which each entry is the jail of a VM.
	Jails []string

	// FirstUID and UIDs are the range of users that VMMs run as. Zero UIDs
	// means that processes are known by their roles alone.
	FirstUID, UIDs uint32

	// Self is a process that is not listed: the one that asks. Zero means
	// this process.
	Self int
}

// Object is one thing that exists because of banger.
type Object struct {
	// Kind is "mount", "loop", "dm", "cgroup", "unit", "jail", "runtime",
	// "netns", "link", "table", "sysctl", "socket" or "process".
	Kind string `json:"kind"`

	// Name tells it from others of its kind.
	Name string `json:"name"`

	// Detail is what else there is to know.
	Detail string `json:"detail,omitempty"`
}

// Inventory is what was found, in a fixed order.
type Inventory struct {
	Objects []Object `json:"objects"`

	// Unread says what could not be looked at, and why: for those places the
	// inventory says nothing.
	Unread []string `json:"unread"`
}

// limits on what is read of a single file, and of one kind.
const (
	maxFile    = 16 << 20
	maxObjects = 1 << 16
)

// Collect looks everywhere. It fails only when ctx ends; what it cannot read is
// part of the answer.
func Collect(ctx context.Context, s Scope) (Inventory, error) {
	c := &collector{Scope: s, Inventory: Inventory{Objects: []Object{}, Unread: []string{}}}
	c.Root = cmp.Or(c.Root, "/")
	c.Name = cmp.Or(c.Name, "banger")
	c.Self = cmp.Or(c.Self, os.Getpid())
	places := []struct {
		name string
		look func() error
	}{
		{"mounts", c.mounts},
		{"loop devices", c.loops},
		{"device mapper", c.dm},
		{"cgroups", c.cgroups},
		{"units", c.units},
		{"jails", c.jails},
		{"runtime directories", c.runtime},
		{"network namespaces", c.namespaces},
		{"links", c.links},
		{"nftables", c.tables},
		{"settings", c.sysctls},
		{"sockets", c.sockets},
		{"processes", c.processes},
	}
	for _, p := range places {
		if err := ctx.Err(); err != nil {
			return Inventory{}, err
		}
		if err := p.look(); err != nil {
			c.unread(p.name, err)
		}
	}
	slices.SortFunc(c.Objects, func(a, b Object) int {
		return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Name, b.Name), cmp.Compare(a.Detail, b.Detail))
	})
	slices.Sort(c.Unread)
	return c.Inventory, nil
}

type collector struct {
	Scope
	Inventory
}

func (c *collector) add(kind, name, detail string) {
	if len(c.Objects) == maxObjects {
		c.unread(kind, errors.New("too many objects, the rest is left out"))
	}
	if len(c.Objects) <= maxObjects {
		c.Objects = append(c.Objects, Object{kind, name, detail})
	}
}

func (c *collector) unread(what string, err error) {
	c.Unread = append(c.Unread, fmt.Sprintf("%s: %v", what, err))
}

// path is where a path of the host is.
func (c *collector) path(p string) string { return filepath.Join(c.Root, p) }

// read returns a file's content. That it does not exist is an error to tell by
// fs.ErrNotExist; that it is too long is one too.
func (c *collector) read(p string) (string, error) {
	f, err := os.Open(c.path(p))
	if err != nil {
		return "", err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return "", err
	}
	if len(b) > maxFile {
		return "", fmt.Errorf("read %s: longer than %d bytes", p, maxFile)
	}
	return string(b), nil
}

// lines returns the lines of a file, and none if it does not exist.
func (c *collector) lines(p string) ([]string, error) {
	text, err := c.read(p)
	if err != nil {
		return nil, absent(err)
	}
	return strings.Split(strings.TrimSuffix(text, "\n"), "\n"), nil
}

// value returns a file's only line. What cannot be read has none: devices and
// processes may go while they are looked at.
func (c *collector) value(p string) string {
	text, err := c.read(p)
	if err != nil {
		return ""
	}
	return strings.TrimSpace(text)
}

// entries returns the names in a directory, and none if it does not exist.
func (c *collector) entries(p string) ([]string, error) {
	list, err := os.ReadDir(c.path(p))
	if err != nil {
		return nil, absent(err)
	}
	var names []string
	for _, e := range list {
		names = append(names, e.Name())
	}
	return names, nil
}

// absent turns absence into nothing to report.
func absent(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// named tells whether a file name is banger's: the name itself, or the name
// followed by a hyphen, a digit, a dot, an "@", or the "d" of its daemon.
func (c *collector) named(base string) bool {
	rest, ok := strings.CutPrefix(base, c.Name)
	if !ok {
		return false
	}
	rest = strings.TrimPrefix(rest, "d")
	return rest == "" || strings.ContainsRune("-.@:0123456789", rune(rest[0]))
}

// within tells whether any element of a path is banger's.
func (c *collector) within(p string) bool {
	return slices.ContainsFunc(strings.Split(p, "/"), c.named)
}
