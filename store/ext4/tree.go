package ext4

import (
	"fmt"
	"hash/maphash"
	"io/fs"
	"strings"
)

// node is one name in the tree; several nodes may share an inode (hard links).
// Nodes refer to each other by number in tree.nodes.
type node struct {
	parent uint32
	inode  uint32 // 0: removed
	name   uint32 // in tree.names
	hash   uint32
	chain  uint32 // next node in the same bucket
	next   uint32 // next and previous in the directory, in the order of arrival
	prev   uint32
	len    uint8
	layer  uint16 // the layer that named it last
}

// tree is the directory tree: all names, found by (directory, name) through one hash table.
type tree struct {
	nodes   table[node]
	names   arena
	buckets []uint32
	live    uint32 // names in buckets
	seed    maphash.Seed
	inodes  table[inode]
}

const (
	rootNode = 1
	maxName  = 255
	// maxFollow bounds the symbolic links met in one path, as the kernel does.
	maxFollow = 40
)

func (t *tree) init() {
	t.seed = maphash.MakeSeed()
	t.buckets = make([]uint32, 1024)
}

func (t *tree) nameOf(n uint32) []byte {
	nd := t.nodes.at(n)
	return t.names.at(nd.name, int(nd.len))
}

func (t *tree) inodeOf(n uint32) *inode { return t.inodes.at(t.nodes.at(n).inode) }

func (t *tree) hash(dir uint32, name string) uint32 {
	return uint32(maphash.String(t.seed, name)) ^ dir*0x9e3779b1
}

// child finds name in dir; 0 if it is not there.
func (t *tree) child(dir uint32, name string) uint32 {
	h := t.hash(dir, name)
	for n := t.buckets[h&uint32(len(t.buckets)-1)]; n != 0; {
		nd := t.nodes.at(n)
		if nd.hash == h && nd.parent == dir && string(t.nameOf(n)) == name {
			return n
		}
		n = nd.chain
	}
	return 0
}

// attach makes a name for inode ino in dir, where it must not exist.
func (t *tree) attach(dir uint32, name string, ino uint32, layer uint16) uint32 {
	if int(t.live) == len(t.buckets) {
		t.grow()
	}
	t.live++
	h := t.hash(dir, name)
	n := t.nodes.add(node{parent: dir, inode: ino, name: t.names.add(name), len: uint8(len(name)), hash: h, layer: layer})
	b := &t.buckets[h&uint32(len(t.buckets)-1)]
	nd := t.nodes.at(n)
	nd.chain, *b = *b, n
	d := t.inodeOf(dir)
	if nd.prev = d.last; nd.prev != 0 {
		t.nodes.at(nd.prev).next = n
	} else {
		d.first = n
	}
	d.last = n
	return n
}

// detach takes a name out of its directory. Its inode is not touched.
func (t *tree) detach(n uint32) {
	nd := t.nodes.at(n)
	p := &t.buckets[nd.hash&uint32(len(t.buckets)-1)]
	for *p != n {
		p = &t.nodes.at(*p).chain
	}
	*p = nd.chain
	t.live--
	d := t.inodeOf(nd.parent)
	if nd.prev != 0 {
		t.nodes.at(nd.prev).next = nd.next
	} else {
		d.first = nd.next
	}
	if nd.next != 0 {
		t.nodes.at(nd.next).prev = nd.prev
	} else {
		d.last = nd.prev
	}
	nd.inode = 0
}

func (t *tree) grow() {
	t.buckets = make([]uint32, 2*len(t.buckets))
	for n := uint32(rootNode + 1); n < t.nodes.n; n++ {
		nd := t.nodes.at(n)
		if nd.inode == 0 {
			continue
		}
		b := &t.buckets[nd.hash&uint32(len(t.buckets)-1)]
		nd.chain, *b = *b, n
	}
}

// checkName tells whether name can stand in a directory.
func checkName(name string) error {
	if name == "" || name == "." || name == ".." || len(name) > maxName || strings.ContainsAny(name, "/\x00") {
		return ErrName
	}
	return nil
}

// split cleans a name as archives have it: "./" and slashes at both ends and in a row go,
// ".." is an error. The last component is empty for the root.
func split(name string) (dir, last string, err error) {
	parts := make([]string, 0, 16)
	for part := range strings.SplitSeq(name, "/") {
		if part == "" || part == "." {
			continue
		}
		if err := checkName(part); err != nil {
			return "", "", err
		}
		parts = append(parts, part)
	}
	if len(parts) == 0 {
		return "", "", nil
	}
	k := len(parts) - 1
	return strings.Join(parts[:k], "/"), parts[k], nil
}

// walk follows path from dir, through symbolic links as a kernel with this root would:
// absolute targets start at the root and ".." never leaves it. What is missing is passed
// to missing, which makes it or fails.
func (t *tree) walk(dir uint32, path string, missing func(dir uint32, name string) (uint32, error)) (uint32, error) {
	at, follows := dir, 0
	for path != "" {
		var part string
		part, path, _ = strings.Cut(path, "/")
		switch part {
		case "", ".":
			continue
		case "..":
			if at != rootNode {
				at = t.nodes.at(at).parent
			}
			continue
		}
		n := t.child(at, part)
		if n == 0 {
			var err error
			if n, err = missing(at, part); err != nil {
				return 0, err
			}
		}
		switch ino := t.inodeOf(n); ino.mode & modeType {
		case modeDir:
			at = n
		case modeSymlink:
			if follows++; follows > maxFollow {
				return 0, ErrLoop
			}
			target := string(t.names.at(ino.first, int(ino.size)))
			if strings.HasPrefix(target, "/") {
				at = rootNode
			}
			if path != "" {
				target += "/" + path
			}
			path = target
		default:
			if path != "" {
				return 0, ErrNotDir
			}
			return n, nil
		}
	}
	return at, nil
}

// notExist is walk's missing function where nothing may be made.
func notExist(uint32, string) (uint32, error) { return 0, fs.ErrNotExist }

// wrap gives err the name that it is about.
func wrap(op, name string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s %q: %w", op, name, err)
}
