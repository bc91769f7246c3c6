package ext4

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"time"
)

// Options says what is known before the first entry.
type Options struct {
	// SizeBytes is the size of the file system; what remains of the last block is left out.
	// Zero means as large as the content and FreeBytes need, in steps of 128 MiB.
	SizeBytes int64
	// FreeBytes is how much is at least free when SizeBytes is zero.
	FreeBytes int64
	// MaxBytes is the size to which the kernel can grow the file system online without a
	// change of its layout. It matters only beside SizeBytes, and at least that is taken.
	// Zero means 2 TiB, which takes 1 MiB of the file.
	MaxBytes int64
	// Label is the volume label, at most 16 bytes.
	Label string
	// UUID of the file system. Zero means one that follows from the inodes.
	UUID [16]byte
	// MaxInodes is how many inodes may be made: of entries, those that are gone again
	// included, and of parents that were missing. Zero means as many as ext4 can hold.
	MaxInodes int
}

// Header describes an entry as stat(2) does.
type Header struct {
	// Mode has the type and permission bits as the kernel has them (S_IFREG|0644).
	Mode uint32
	// UID and GID own the entry.
	UID, GID uint32
	// Size is the number of bytes that Write will get, for a regular file.
	Size int64
	// ModTime is the time of the last change of the content.
	ModTime time.Time
	// AccessTime and ChangeTime are ModTime where they are zero.
	AccessTime, ChangeTime time.Time
	// Target is what a symbolic link says.
	Target string
	// Major and Minor number a device.
	Major, Minor uint32
	// Xattrs are extended attributes by full name ("user.x", "system.posix_acl_access")
	// with the value as getxattr(2) returns it.
	Xattrs map[string][]byte
}

// Writer makes one file system. It is not safe for concurrent use.
//
// Names are slash-separated paths. Parents that are missing are made, owned by root with
// mode 0755 and the time of the entry; parents that are symbolic links are followed within
// the tree. Any error but those of a name or header leaves the Writer unusable.
type Writer struct {
	opts  Options
	file  *os.File
	out   *output
	alloc cursor
	free  freeList

	tree    tree
	extents table[extent]
	times   map[uint32][2]stamp // access and change where they differ from mtime
	inline  attrStore
	maps    map[uint32][60]byte // extent roots of inodes whose map has blocks
	layer   uint16
	hidden  map[uint32]bool // directories in which nothing of earlier layers is left to hide

	open    content // the file that Write fills
	lastDir string  // the directory of the entry before, resolved
	lastAt  uint32
}

// NewWriter begins an image in f, which must be empty, open for reading and writing, and
// stays the caller's. The caller must call Finish or Abort.
func NewWriter(f *os.File, opts Options) (*Writer, error) {
	if len(opts.Label) > 16 {
		return nil, fmt.Errorf("label %q: %w", opts.Label, ErrTooBig)
	}
	head := 1 + descArea(opts)
	limit := int64(maxBlocks)
	if opts.SizeBytes != 0 {
		limit = usableBlocks(opts.SizeBytes/blockSize, head)
		if opts.SizeBytes < 0 || limit <= int64(head) {
			return nil, fmt.Errorf("size %d: %w", opts.SizeBytes, ErrNoSpace)
		}
		if opts.SizeBytes/blockSize > maxBlocks {
			return nil, fmt.Errorf("size %d: %w", opts.SizeBytes, ErrTooBig)
		}
	}
	w := &Writer{
		opts:  opts,
		file:  f,
		out:   newOutput(f),
		alloc: cursor{next: head, limit: uint32(limit), head: head},
		times: map[uint32][2]stamp{},
		maps:  map[uint32][60]byte{},

		hidden: map[uint32]bool{},
	}
	w.tree.init()
	for w.tree.inodes.n < inoLostFound {
		w.tree.inodes.add(inode{})
	}
	*w.tree.inodes.at(inoRoot) = inode{mode: modeDir | 0o755, links: 2}
	w.tree.nodes.add(node{parent: rootNode, inode: inoRoot})
	lost := w.tree.inodes.add(inode{mode: modeDir | 0o700, links: 2})
	w.tree.attach(rootNode, lostFound, lost, 0)
	w.tree.inodes.at(inoRoot).links++
	return w, nil
}

const lostFound = "lost+found"

// Create begins an entry; the bytes of a regular file follow by Write. A directory that
// exists keeps its children and gets the header; anything else under that name is replaced.
func (w *Writer) Create(name string, h Header) error {
	return wrap("create", name, w.create(name, h))
}

func (w *Writer) create(name string, h Header) error {
	if err := w.close(); err != nil {
		return err
	}
	if err := h.check(); err != nil {
		return err
	}
	dirPath, last, err := split(name)
	if err != nil {
		return err
	}
	attrs, err := encodeAttrs(h.Xattrs)
	if err != nil {
		return err
	}
	if last == "" {
		if h.Mode&modeType != modeDir {
			return ErrNotDir
		}
		return w.fill(inoRoot, h, attrs)
	}
	dir, err := w.directory(dirPath, stampOf(h.ModTime))
	if err != nil {
		return err
	}
	n := w.tree.child(dir, last)
	if n != 0 {
		if old := w.tree.inodeOf(n); old.mode&modeType == modeDir && h.Mode&modeType == modeDir {
			w.tree.nodes.at(n).layer = w.layer
			return w.fill(w.tree.nodes.at(n).inode, h, attrs)
		}
		if dir == rootNode && last == lostFound {
			return ErrNotDir
		}
		w.removeTree(n)
	} else if dir == rootNode && last == lostFound && h.Mode&modeType != modeDir {
		return ErrNotDir
	}
	ino, err := w.newInode()
	if err != nil {
		return err
	}
	*w.tree.inodes.at(ino) = inode{mode: uint16(h.Mode), links: 1}
	if h.Mode&modeType == modeDir {
		w.tree.inodes.at(ino).links = 2
		w.tree.inodeOf(dir).links++
	}
	w.tree.attach(dir, last, ino, w.layer)
	return w.fill(ino, h, attrs)
}

// check refuses what no file system call could have made.
func (h *Header) check() error {
	switch h.Mode & modeType {
	case modeRegular:
		if h.Size < 0 || h.Size > math.MaxUint32*blockSize {
			return ErrTooBig
		}
	case modeSymlink:
		if h.Target == "" || len(h.Target) >= blockSize {
			return fmt.Errorf("target: %w", ErrName)
		}
		for i := range len(h.Target) {
			if h.Target[i] == 0 {
				return fmt.Errorf("target: %w", ErrName)
			}
		}
	case modeDir, modeChar, modeBlock, modeFIFO, modeSocket:
	default:
		return fmt.Errorf("mode %#o: %w", h.Mode, fs.ErrInvalid)
	}
	if h.Major > 0xfff || h.Minor > 0xfffff {
		return fmt.Errorf("device %d:%d: %w", h.Major, h.Minor, ErrTooBig)
	}
	return nil
}

// maxInodes is what the largest file system holds, with room for more.
const maxInodes = maxGroups * maxInodeGroup / 2

// checkNames refuses one name more where they take too much memory.
func (w *Writer) checkNames() error {
	if w.tree.names.full() {
		return fmt.Errorf("names and targets of more than %d bytes: %w", maxArena, ErrTooBig)
	}
	return nil
}

// newInode takes the next inode number, for what gets its first name.
func (w *Writer) newInode() (uint32, error) {
	if err := w.checkNames(); err != nil {
		return 0, err
	}
	limit := maxInodes
	if w.opts.MaxInodes > 0 {
		limit = min(limit, w.opts.MaxInodes)
	}
	if made := int(w.tree.inodes.n) - (inoLostFound + 1); made >= limit {
		return 0, fmt.Errorf("more than %d inodes: %w", limit, ErrTooBig)
	}
	return w.tree.inodes.add(inode{}), nil
}

// fill gives an inode what the header says, apart from its type and names.
func (w *Writer) fill(ino uint32, h Header, attrs attrSet) error {
	in := w.tree.inodes.at(ino)
	m := stampOf(h.ModTime)
	in.mode = uint16(h.Mode)
	in.uid, in.gid = h.UID, h.GID
	in.mtime, in.mtimeNS = m.sec, m.ns
	delete(w.times, ino)
	if !h.AccessTime.IsZero() || !h.ChangeTime.IsZero() {
		a, c := m, m
		if !h.AccessTime.IsZero() {
			a = stampOf(h.AccessTime)
		}
		if !h.ChangeTime.IsZero() {
			c = stampOf(h.ChangeTime)
		}
		if a != m || c != m {
			w.times[ino] = [2]stamp{a, c}
		}
	}
	if err := w.setAttrs(in, attrs); err != nil {
		return err
	}
	switch h.Mode & modeType {
	case modeRegular:
		w.open.begin(ino, h.Size)
	case modeSymlink:
		in.first, in.size = w.tree.names.add(h.Target), int64(len(h.Target))
		if len(h.Target) >= fastSymlink {
			return w.longSymlink(in, h.Target)
		}
	case modeChar, modeBlock:
		in.first, in.last = deviceNumber(h.Major, h.Minor)
	}
	return nil
}

// longSymlink gives a target its block. That block is kept in last, as first is the target.
func (w *Writer) longSymlink(in *inode, target string) error {
	s, err := w.alloc.take(1)
	if err != nil {
		return err
	}
	var buf [blockSize]byte
	copy(buf[:], target)
	in.last, in.dataBlks = s.start, 1
	return w.out.write(s.start, buf[:])
}

// Link makes name another name of the existing entry old, which is not followed if it is a
// symbolic link. It fails with fs.ErrNotExist if there is no old, and with ErrLinks if it
// is a directory.
func (w *Writer) Link(old, name string) error {
	return wrap("link", name, w.link(old, name))
}

func (w *Writer) link(old, name string) error {
	if err := errors.Join(w.close(), w.checkNames()); err != nil {
		return err
	}
	from, err := w.find(old)
	if err != nil {
		return wrap("find", old, err)
	}
	in := w.tree.inodeOf(from)
	if in.mode&modeType == modeDir || in.links >= maxLinks {
		return ErrLinks
	}
	dirPath, last, err := split(name)
	if err != nil {
		return err
	}
	if last == "" {
		return ErrLinks
	}
	dir, err := w.directory(dirPath, stamp{in.mtime, in.mtimeNS})
	if err != nil {
		return err
	}
	ino := w.tree.nodes.at(from).inode
	if n := w.tree.child(dir, last); n != 0 {
		if w.tree.nodes.at(n).inode == ino {
			w.tree.nodes.at(n).layer = w.layer
			return nil
		}
		if dir == rootNode && last == lostFound {
			return ErrNotDir
		}
		if w.below(from, n) {
			return ErrLinks // the directory to be replaced holds the file to be linked
		}
		w.removeTree(n)
	}
	in.links++
	w.tree.attach(dir, last, ino, w.layer)
	return nil
}

// below tells whether n is dir or lies in it.
func (w *Writer) below(n, dir uint32) bool {
	for n != rootNode {
		if n == dir {
			return true
		}
		n = w.tree.nodes.at(n).parent
	}
	return false
}

// find looks a name up without following its last component.
func (w *Writer) find(name string) (uint32, error) {
	dirPath, last, err := split(name)
	if err != nil {
		return 0, err
	}
	dir, err := w.tree.walk(rootNode, dirPath, notExist)
	if err != nil || last == "" {
		return dir, err
	}
	if n := w.tree.child(dir, last); n != 0 {
		return n, nil
	}
	return 0, fs.ErrNotExist
}

// directory finds the directory of an entry, and makes what is missing of it.
func (w *Writer) directory(path string, m stamp) (uint32, error) {
	if path == w.lastDir && w.lastAt != 0 {
		return w.lastAt, nil
	}
	dir, err := w.tree.walk(rootNode, path, func(dir uint32, name string) (uint32, error) {
		if err := checkName(name); err != nil {
			return 0, err
		}
		ino, err := w.newInode()
		if err != nil {
			return 0, err
		}
		*w.tree.inodes.at(ino) = inode{mode: modeDir | 0o755, links: 2, mtime: m.sec, mtimeNS: m.ns}
		w.tree.inodeOf(dir).links++
		return w.tree.attach(dir, name, ino, w.layer), nil
	})
	if err != nil {
		return 0, err
	}
	if w.tree.inodeOf(dir).mode&modeType != modeDir {
		return 0, ErrNotDir
	}
	w.lastDir, w.lastAt = path, dir
	return dir, nil
}

// Abort ends the Writer without a result. It is safe after Finish.
func (w *Writer) Abort() { w.out.stop() }
