package ext4

import (
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
)

const (
	attrMagic       = 0xea020000
	attrEntry       = 16 // bytes of an entry before its name
	attrBlockHeader = 32
	// inlineAttrs is the room for attributes in an inode, magic included.
	inlineAttrs = inodeSize - 128 - extraSize
)

// attrPrefixes are the name spaces that have a number; the number stands for the text.
var attrPrefixes = []struct {
	index  byte
	prefix string
	whole  bool // the name ends with the prefix
}{
	{1, "user.", false},
	{2, "system.posix_acl_access", true},
	{3, "system.posix_acl_default", true},
	{4, "trusted.", false},
	{6, "security.", false},
}

// attr is one attribute as ext4 stores it.
type attr struct {
	index byte
	name  string
	value []byte
}

// size is the room that the attribute needs, entry and value.
func (a *attr) size() int {
	return attrEntry + (len(a.name)+3)&^3 + (len(a.value)+3)&^3
}

// hash is what the kernel keeps in an entry to find equal blocks.
func (a *attr) hash() uint32 {
	var h uint32
	for _, c := range []byte(a.name) {
		h = h<<5 ^ h>>27 ^ uint32(c)
	}
	padded := append(slices.Clone(a.value), 0, 0, 0)
	for i := 0; i < len(a.value); i += 4 {
		h = h<<16 ^ h>>16 ^ binary.LittleEndian.Uint32(padded[i:i+4:i+4])
	}
	return h
}

// attrSet is the attributes of an inode, encoded: what lies in the inode, and the block.
type attrSet struct {
	inline []byte // nil: none
	block  []byte // nil: none; blockSize long, without checksum
}

// CheckXattr tells whether ext4 can hold an attribute of this name and value.
// It returns nil or an error that is ErrXattr.
func CheckXattr(name string, value []byte) error {
	_, err := parseAttr(name, value)
	return err
}

func parseAttr(name string, value []byte) (attr, error) {
	for _, p := range attrPrefixes {
		rest, ok := strings.CutPrefix(name, p.prefix)
		if !ok || p.whole != (rest == "") {
			continue
		}
		if len(rest) > maxName || strings.ContainsRune(rest, 0) {
			break
		}
		if p.whole {
			var err error
			if value, err = encodeACL(value); err != nil {
				return attr{}, fmt.Errorf("%s: %w", name, err)
			}
		}
		a := attr{p.index, rest, value}
		if attrBlockHeader+a.size()+4 > blockSize {
			return attr{}, fmt.Errorf("%s: %w: %d bytes", p.prefix, ErrXattr, len(value))
		}
		return a, nil
	}
	return attr{}, fmt.Errorf("%w: name %q", ErrXattr, name)
}

// encodeAttrs packs attributes: as many as fit into the inode, the rest into one block.
func encodeAttrs(m map[string][]byte) (attrSet, error) {
	if len(m) == 0 {
		return attrSet{}, nil
	}
	list := make([]attr, 0, len(m))
	for name, value := range m {
		a, err := parseAttr(name, value)
		if err != nil {
			return attrSet{}, err
		}
		list = append(list, a)
	}
	// The order that the kernel keeps in blocks, and searches by.
	slices.SortFunc(list, func(a, b attr) int {
		if a.index != b.index {
			return int(a.index) - int(b.index)
		}
		if len(a.name) != len(b.name) {
			return len(a.name) - len(b.name)
		}
		return strings.Compare(a.name, b.name)
	})
	var inner, outer []attr
	room := inlineAttrs - 4 - 4 // magic and the end of the list
	need := attrBlockHeader + 4
	for _, a := range list {
		if a.size() <= room {
			inner, room = append(inner, a), room-a.size()
		} else {
			outer, need = append(outer, a), need+a.size()
		}
	}
	if need > blockSize {
		return attrSet{}, fmt.Errorf("%w: %d bytes of attributes", ErrXattr, need)
	}
	var s attrSet
	if len(inner) > 0 {
		s.inline = make([]byte, inlineAttrs)
		binary.LittleEndian.PutUint32(s.inline, attrMagic)
		putAttrs(s.inline[4:], 0, inner)
	}
	if len(outer) > 0 {
		s.block = make([]byte, blockSize)
		le := binary.LittleEndian
		le.PutUint32(s.block, attrMagic)
		le.PutUint32(s.block[4:], 1) // inodes that share the block
		le.PutUint32(s.block[8:], 1) // blocks
		le.PutUint32(s.block[12:], putAttrs(s.block, attrBlockHeader, outer))
	}
	return s, nil
}

// putAttrs writes entries to b from at on and values at its end, and returns the hash of all.
func putAttrs(b []byte, at int, list []attr) (hash uint32) {
	le, end := binary.LittleEndian, len(b)
	for _, a := range list {
		h := a.hash()
		hash = hash<<16 ^ hash>>16 ^ h
		b[at], b[at+1] = byte(len(a.name)), a.index
		if len(a.value) > 0 {
			end -= (len(a.value) + 3) &^ 3
			copy(b[end:], a.value)
			le.PutUint16(b[at+2:], uint16(end))
		}
		le.PutUint32(b[at+8:], uint32(len(a.value)))
		le.PutUint32(b[at+12:], h)
		copy(b[at+attrEntry:], a.name)
		at += attrEntry + (len(a.name)+3)&^3
	}
	return hash
}

// attrStore keeps the attributes that lie in inodes, the same ones once.
type attrStore struct {
	data arena
	seen map[string]uint32 // at most maxSeen
}

const maxSeen = 1024

// add returns a reference that is not 0.
func (s *attrStore) add(p []byte) uint32 {
	if ref, ok := s.seen[string(p)]; ok {
		return ref
	}
	ref := s.data.add(string(p)) + 1
	if s.seen == nil {
		s.seen = map[string]uint32{}
	}
	if len(s.seen) < maxSeen {
		s.seen[string(p)] = ref
	}
	return ref
}

func (s *attrStore) at(ref uint32) []byte { return s.data.at(ref-1, inlineAttrs) }

// setAttrs gives an inode its attributes, in place of those that it had.
func (w *Writer) setAttrs(in *inode, set attrSet) error {
	w.dropAttrs(in)
	if set.inline != nil {
		in.attrs = w.inline.add(set.inline)
	}
	if set.block == nil {
		return nil
	}
	s, err := w.alloc.take(1)
	if err != nil {
		return err
	}
	in.attrBlk = s.start
	var nr [8]byte
	binary.LittleEndian.PutUint32(nr[:], s.start)
	sum := checksum(checksum(checksumSeed, nr[:]), set.block)
	binary.LittleEndian.PutUint32(set.block[16:], sum)
	return w.out.write(s.start, set.block)
}

func (w *Writer) dropAttrs(in *inode) {
	if in.attrBlk != 0 {
		w.free.add(span{in.attrBlk, 1})
	}
	in.attrs, in.attrBlk = 0, 0
}
