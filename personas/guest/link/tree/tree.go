// Package tree sends file trees over a connection, and makes them again on the
// other side.
//
// A stream is entries in depth-first order, each directory before what is in
// it, each regular file followed by its data; holes are not sent:
//
//	Entry {source 0, path "", dir}
//	Entry {source 0, path "a", file, size}   Chunk  Chunk ...
//	Entry {source 0, path "b", symlink, target}
//	Entry {source 1, path "", file, size}    Chunk ...
//	Done
//
// The receiver trusts nothing: it opens every directory itself, one name at a
// time and without following links, and makes each entry by its last name only.
// So nothing that a stream says can lead out of the destination.
package tree

import (
	"errors"
	"fmt"
	"path"
	"strings"

	"banger/personas/guest/link/frame"
)

const (
	// maxDepth bounds how deep directories may lie in each other: each level
	// is an open descriptor.
	maxDepth = 900
	// maxSources bounds the trees of one copy.
	maxSources = 10000
	// chunkBytes of data go into one frame, behind the offset.
	chunkBytes = 60 << 10
	// offsetBytes is the length of a chunk's offset.
	offsetBytes = 8
)

// A Source names one tree of a copy, as the receiver shall call it.
type Source struct {
	// Name is the last element of the source's path.
	Name frame.Raw `json:"name"`
	// Contents says that what is in the directory is meant, not the directory.
	Contents bool `json:"contents,omitempty"`
}

// SourceOf returns how a receiver calls the file at p, where a path that is not
// absolute begins at dir. "/", and a path that ends in "/.", mean the contents
// of the directory.
func SourceOf(dir, p string) Source {
	contents := p == "." || strings.HasSuffix(p, "/.")
	if !path.IsAbs(p) {
		p = path.Join(dir, p)
	}
	p = path.Clean(p)
	if p == "/" {
		return Source{Name: "root", Contents: true}
	}
	return Source{Name: frame.Raw(path.Base(p)), Contents: contents}
}

// ValidSources tells what in list is no name of a tree.
func ValidSources(list []Source) error {
	if len(list) == 0 || len(list) > maxSources {
		return fmt.Errorf("copy: %d sources: at least 1 and at most %d are allowed", len(list), maxSources)
	}
	for _, s := range list {
		if !validName(string(s.Name)) {
			return fmt.Errorf("copy: invalid name %q", string(s.Name))
		}
	}
	return nil
}

// kind is the type of a file.
type kind string

const (
	kindDir     kind = "dir"
	kindFile    kind = "file"
	kindSymlink kind = "symlink"
	kindLink    kind = "link" // another name of a file that came before
	kindFIFO    kind = "fifo"
	kindChar    kind = "char"
	kindBlock   kind = "block"
)

// entry is the payload of an Entry frame.
type entry struct {
	// Source is the index of the tree.
	Source int `json:"source"`
	// Path is relative to the tree's root, which is the empty path.
	Path frame.Raw `json:"path,omitempty"`
	Kind kind      `json:"kind"`
	// Mode are the permission bits, with setuid, setgid and sticky.
	Mode uint32 `json:"mode,omitempty"`
	UID  uint32 `json:"uid,omitempty"`
	GID  uint32 `json:"gid,omitempty"`
	// Sec and Nsec are the time of the last change of content.
	Sec  int64 `json:"sec,omitempty"`
	Nsec int64 `json:"nsec,omitempty"`
	// Size of a regular file, in bytes, holes included.
	Size int64 `json:"size,omitempty"`
	// Target of a symlink, as it is; of a link, a path like Path.
	Target frame.Raw `json:"target,omitempty"`
	// Rdev is the number of a device.
	Rdev   uint64  `json:"rdev,omitempty"`
	Xattrs []xattr `json:"xattrs,omitempty"`
}

type xattr struct {
	Name  string `json:"name"`
	Value []byte `json:"value"`
}

// validName reports whether s is one name in a directory.
func validName(s string) bool {
	return s != "" && s != "." && s != ".." && len(s) <= 255 && !strings.ContainsAny(s, "/\x00")
}

// validPath reports whether s is a relative path of valid names, or empty.
func validPath(s string) bool {
	if s == "" {
		return true
	}
	depth := 0
	for name := range strings.SplitSeq(s, "/") {
		if depth++; depth > maxDepth || !validName(name) {
			return false
		}
	}
	return true
}

// validate checks everything about e that needs no look at the file system.
func (e *entry) validate() error {
	switch {
	case !validPath(string(e.Path)):
		return fmt.Errorf("%w: path %q", frame.ErrProtocol, string(e.Path))
	case e.Mode&^0o7777 != 0:
		return fmt.Errorf("%w: mode %#o", frame.ErrProtocol, e.Mode)
	case e.Nsec < 0 || e.Nsec >= 1e9:
		return fmt.Errorf("%w: %d nanoseconds", frame.ErrProtocol, e.Nsec)
	case e.Size < 0 || e.Size > 0 && e.Kind != kindFile:
		return fmt.Errorf("%w: size %d", frame.ErrProtocol, e.Size)
	}
	switch e.Kind {
	case kindDir, kindFile, kindFIFO, kindChar, kindBlock:
		return nil
	case kindSymlink:
		if e.Target == "" || len(e.Target) > 4095 || strings.ContainsRune(string(e.Target), 0) {
			return fmt.Errorf("%w: link target %q", frame.ErrProtocol, string(e.Target))
		}
		return nil
	case kindLink:
		if e.Target == "" || !validPath(string(e.Target)) || e.Target == e.Path {
			return fmt.Errorf("%w: link target %q", frame.ErrProtocol, string(e.Target))
		}
		return nil
	}
	return fmt.Errorf("%w: file type %q", frame.ErrProtocol, string(e.Kind))
}

// decodeEntry decodes and checks the payload of an Entry frame.
func decodeEntry(payload []byte) (*entry, error) {
	e := new(entry)
	if err := frame.Decode(payload, e); err != nil {
		return nil, err
	}
	return e, e.validate()
}

var errNotDir = errors.New("not a directory")
