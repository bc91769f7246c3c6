// Package catalog keeps the images and kernels that VMs are made from: by name,
// each in a folder of its own, one of each kind marked as the default.
package catalog

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strings"
	"sync"

	"banger/personas/api"
	"banger/store"
)

// Item is what a catalogue needs to know of what it lists.
type Item[T any] interface {
	// Label is the item's name and digest, and whether it is the default.
	Label() (name, digest string, isDefault bool)
	// WithDefault is the item with the mark set or taken away.
	WithDefault(bool) T
}

// Catalog lists the items of one kind. It is safe for concurrent use.
type Catalog[T Item[T]] struct {
	kind    string // "image" or "kernel"
	records *store.Records[T]
	inUse   func(kind, name string) string // the VM that uses an item, if any

	// mu guards the fields that follow. It is held over the writing of a record,
	// so that memory and disk agree on the default.
	mu      sync.Mutex
	items   map[string]T
	damaged map[string]store.Damage
	pins    map[string]int // by name: VMs that are being made from it
}

// Open reads a catalogue. Items that cannot be read are not listed, and told.
func Open[T Item[T]](kind string, records *store.Records[T], inUse func(kind, name string) string) (*Catalog[T], []store.Damage, error) {
	items, damaged, err := records.Load()
	if err != nil {
		return nil, nil, err
	}
	damaged = append(damaged, takeLiars(records, items)...)
	c := &Catalog[T]{kind: kind, records: records, inUse: inUse, items: items, pins: make(map[string]int)}
	c.damaged = make(map[string]store.Damage)
	for _, d := range damaged {
		c.damaged[d.ID] = d
	}
	return c, damaged, nil
}

// Look tells which items cannot be read. It changes nothing.
func Look[T Item[T]](records *store.Records[T]) ([]store.Damage, error) {
	items, damaged, err := records.Look()
	if err != nil {
		return nil, err
	}
	return append(damaged, takeLiars(records, items)...), nil
}

// takeLiars takes out of items those that say that they are others.
func takeLiars[T Item[T]](records *store.Records[T], items map[string]T) (liars []store.Damage) {
	for id, item := range items {
		if name, _, _ := item.Label(); name != id {
			delete(items, id)
			liars = append(liars, store.Damage{ID: id, Path: records.Path(id),
				Err: fmt.Errorf("load record %s: %w: it calls itself %q", records.Path(id), store.ErrCorrupt, name)})
		}
	}
	return liars
}

// List returns all items, by name.
func (c *Catalog[T]) List() []T {
	c.mu.Lock()
	defer c.mu.Unlock()
	names := slices.Sorted(maps.Keys(c.items))
	list := make([]T, len(names))
	for i, n := range names {
		list[i] = c.items[n]
	}
	return list
}

// Find returns the item with this name or digest. An empty name means the one
// marked default, else the only one.
func (c *Catalog[T]) Find(name string) (T, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.findLocked(name)
}

func (c *Catalog[T]) findLocked(name string) (T, error) {
	if name == "" {
		return c.defaultLocked()
	}
	if item, ok := c.items[name]; ok {
		return item, nil
	}
	var found []T
	bare := strings.TrimPrefix(name, "sha256:")
	for _, item := range c.items {
		_, digest, _ := item.Label()
		if len(bare) >= 6 && strings.HasPrefix(strings.TrimPrefix(digest, "sha256:"), bare) {
			found = append(found, item)
		}
	}
	if len(found) == 1 {
		return found[0], nil
	}
	var none T
	if d, ok := c.damaged[name]; ok {
		return none, &api.Error{Code: api.CodeConflict, Message: fmt.Sprintf("%s %s: %v", c.kind, name, d.Err),
			HintText: fmt.Sprintf("mend %s and restart bangerd, or give it up: banger %s delete %s", d.Path, c.kind, name)}
	}
	return none, &api.Error{Code: api.CodeNotFound, Message: fmt.Sprintf("no %s is named %q", c.kind, name),
		HintText: fmt.Sprintf("see which there are: banger %s list", c.kind)}
}

func (c *Catalog[T]) defaultLocked() (T, error) {
	var only T
	for _, name := range slices.Sorted(maps.Keys(c.items)) { // always the same one, if a crash left two
		only = c.items[name]
		if _, _, isDefault := only.Label(); isDefault {
			return only, nil
		}
	}
	switch len(c.items) {
	case 1:
		return only, nil
	case 0:
		return only, &api.Error{Code: api.CodeNotFound, Message: fmt.Sprintf("there is no %s yet", c.kind), HintText: c.howToGetOne()}
	}
	return only, &api.Error{Code: api.CodeUsage, Message: fmt.Sprintf("there are %d %ss and none is the default", len(c.items), c.kind),
		HintText: fmt.Sprintf("name one with --%s; see \"banger %s list\"", c.kind, c.kind)}
}

func (c *Catalog[T]) howToGetOne() string {
	if c.kind == "kernel" {
		return "import one: banger kernel import linux-image.deb, or banger kernel import --host"
	}
	return "import one: banger image import rootfs.tar, or docker save debian:12 | banger image import -"
}

// Pin is Find for a VM that is about to be made: the item is not deleted until
// the returned function is called. By then the VM's record names it.
func (c *Catalog[T]) Pin(name string) (item T, unpin func(), err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	item, err = c.findLocked(name)
	if err != nil {
		return item, nil, err
	}
	label, _, _ := item.Label()
	c.pins[label]++
	return item, func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.pins[label]--; c.pins[label] == 0 {
			delete(c.pins, label)
		}
	}, nil
}

// Path is the folder of the item with this name.
func (c *Catalog[T]) Path(name string) string { return c.records.Path(name) }

// Publish lists a new item whose files are in the folder from. The same item
// under the same name is success and keeps the old one; another one under that
// name is refused.
func (c *Catalog[T]) Publish(from string, item T) (T, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	name, digest, isDefault := item.Label()
	if old, ok := c.items[name]; ok {
		if _, d, _ := old.Label(); d != digest {
			return item, &api.Error{Code: api.CodeConflict, Message: fmt.Sprintf("%s %s exists already, with other content", c.kind, name),
				HintText: fmt.Sprintf("choose another --name, or delete it: banger %s delete %s", c.kind, name)}
		}
		if !isDefault {
			return old, nil
		}
		return c.makeDefaultLocked(name)
	}
	err := c.records.Publish(name, from, item.WithDefault(false))
	if errors.Is(err, fs.ErrExist) {
		return item, &api.Error{Code: api.CodeConflict, Message: fmt.Sprintf("%s %s exists and cannot be read", c.kind, name),
			HintText: fmt.Sprintf("look at %s, or give it up: banger %s delete %s", c.records.Path(name), c.kind, name)}
	}
	if err != nil {
		return item, err
	}
	c.items[name] = item.WithDefault(false)
	if isDefault {
		return c.makeDefaultLocked(name)
	}
	return c.items[name], nil
}

// Update changes what is known of an item that is listed. Its files stay.
func (c *Catalog[T]) Update(name string, change func(T) T) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	item, ok := c.items[name]
	if !ok {
		return &api.Error{Code: api.CodeNotFound, Message: fmt.Sprintf("%s %s is gone", c.kind, name)}
	}
	item = change(item)
	if err := c.records.Save(name, item); err != nil {
		return err
	}
	c.items[name] = item
	return nil
}

// makeDefaultLocked moves the mark: first to the new one, so that a crash in
// between leaves two, never none.
func (c *Catalog[T]) makeDefaultLocked(name string) (T, error) {
	chosen := c.items[name].WithDefault(true)
	if err := c.records.Save(name, chosen); err != nil {
		return chosen, err
	}
	c.items[name] = chosen
	for n, other := range c.items {
		if _, _, isDefault := other.Label(); n == name || !isDefault {
			continue
		}
		if err := c.records.Save(n, other.WithDefault(false)); err != nil {
			return chosen, err
		}
		c.items[n] = other.WithDefault(false)
	}
	return chosen, nil
}

// Delete removes an item that no VM uses, with its files, also a damaged one. What
// cannot be removed of these goes when the store is opened the next time.
func (c *Catalog[T]) Delete(name string) error {
	clear, err := c.bury(name)
	if err != nil {
		return err
	}
	return clear()
}

// bury takes an item away. Its files take as long as they are large, and are left for
// clear.
func (c *Catalog[T]) bury(name string) (clear func() error, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	label := name
	if _, damaged := c.damaged[name]; !damaged {
		item, err := c.findLocked(name)
		if err != nil {
			return nil, err
		}
		label, _, _ = item.Label()
	}
	if vm := c.inUse(c.kind, label); vm != "" {
		return nil, &api.Error{Code: api.CodeConflict, Message: fmt.Sprintf("%s %s is used by VM %s", c.kind, label, vm),
			HintText: "delete the VMs first that were made from it"}
	}
	if c.pins[label] > 0 {
		return nil, &api.Error{Code: api.CodeConflict, Message: fmt.Sprintf("a VM is being made from %s %s", c.kind, label)}
	}
	if clear, err = c.records.Bury(label); err != nil {
		return nil, err
	}
	delete(c.items, label)
	delete(c.damaged, label)
	return clear, nil
}
