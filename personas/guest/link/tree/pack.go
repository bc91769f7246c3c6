package tree

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"banger/personas/guest/link/frame"
)

// Pack sends the trees at paths, and Done. A symbolic link is sent as such; with
// a slash at its end, a path means the directory that it leads to. Sockets are
// left out, because a socket is its process. A file that cannot be read ends the
// copy.
func Pack(w *frame.Writer, paths []string) error {
	for i, p := range paths {
		s := sender{w: w, source: i, links: make(map[inode]string), buf: make([]byte, chunkBytes)}
		if err := s.sendSource(p); err != nil {
			return err
		}
	}
	return w.Write(frame.Done)
}

// inode identifies a file that may have more names than one.
type inode struct{ dev, ino uint64 }

// A sender sends one source.
type sender struct {
	w      *frame.Writer
	source int
	shown  string // the source's path, for errors
	links  map[inode]string
	buf    []byte
}

func (s *sender) sendSource(p string) error {
	s.shown = p
	follow := strings.HasSuffix(p, "/") || strings.HasSuffix(p, "/.") || p == "."
	dir, name := filepath.Split(filepath.Clean(p))
	if follow || name == "" || name == ".." {
		dir, name = p, "."
	}
	if dir == "" {
		dir = "."
	}
	parent, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: dir, Err: err}
	}
	defer unix.Close(parent)
	return s.send(parent, name, "", 0)
}

// send sends what name in the directory dir is, under the path rel.
func (s *sender) send(dir int, name, rel string, depth int) error {
	var st unix.Stat_t
	if err := unix.Fstatat(dir, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return s.fail("stat", rel, err)
	}
	e := &entry{
		Source: s.source, Path: frame.Raw(rel), Mode: st.Mode & 0o7777,
		UID: st.Uid, GID: st.Gid, Sec: st.Mtim.Sec, Nsec: st.Mtim.Nsec,
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		return s.sendDir(dir, name, e, depth)
	case unix.S_IFREG:
		return s.sendFile(dir, name, e, &st)
	case unix.S_IFLNK:
		e.Kind = kindSymlink
		target := make([]byte, unix.PathMax)
		n, err := unix.Readlinkat(dir, name, target)
		if err != nil {
			return s.fail("read link", rel, err)
		}
		e.Target = frame.Raw(target[:n])
	case unix.S_IFIFO:
		e.Kind = kindFIFO
	case unix.S_IFCHR:
		e.Kind, e.Rdev = kindChar, st.Rdev
	case unix.S_IFBLK:
		e.Kind, e.Rdev = kindBlock, st.Rdev
	default:
		return nil
	}
	return s.w.JSON(frame.Entry, e)
}

func (s *sender) sendDir(dir int, name string, e *entry, depth int) error {
	if depth > maxDepth {
		return s.fail("read", string(e.Path), unix.ENAMETOOLONG)
	}
	f, err := openat(dir, name, unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return s.fail("open", string(e.Path), err)
	}
	defer f.Close()
	e.Kind, e.Xattrs = kindDir, readXattrs(int(f.Fd()))
	if err := s.w.JSON(frame.Entry, e); err != nil {
		return err
	}
	names, err := f.Readdirnames(-1)
	if err != nil {
		return s.fail("read", string(e.Path), err)
	}
	slices.Sort(names)
	for _, n := range names {
		if err := s.send(int(f.Fd()), n, path.Join(string(e.Path), n), depth+1); err != nil {
			return err
		}
	}
	return nil
}

func (s *sender) sendFile(dir int, name string, e *entry, st *unix.Stat_t) error {
	id := inode{st.Dev, st.Ino}
	if first, ok := s.links[id]; ok {
		e.Kind, e.Target = kindLink, frame.Raw(first)
		return s.w.JSON(frame.Entry, e)
	}
	// O_NONBLOCK, in case that the file has become a FIFO since.
	f, err := openat(dir, name, unix.O_RDONLY|unix.O_NONBLOCK)
	if err != nil {
		return s.fail("open", string(e.Path), err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return s.fail("stat", string(e.Path), err)
	}
	if !info.Mode().IsRegular() {
		return s.fail("read", string(e.Path), errors.New("replaced while it was read"))
	}
	// A source that is a single file has no other names within the copy.
	if st.Nlink > 1 && e.Path != "" {
		s.links[id] = string(e.Path)
	}
	e.Kind, e.Size, e.Xattrs = kindFile, info.Size(), readXattrs(int(f.Fd()))
	if err := s.w.JSON(frame.Entry, e); err != nil {
		return err
	}
	return s.sendData(f, e)
}

// sendData sends the data of f up to the announced size. What is beyond it was
// added since; what is missing was cut off since, and arrives as a hole.
func (s *sender) sendData(f *os.File, e *entry) error {
	for off := int64(0); off < e.Size; {
		start, end, err := dataRange(f, off, e.Size)
		if err != nil {
			return s.fail("read", string(e.Path), err)
		}
		for start < end {
			n, err := f.ReadAt(s.buf[:min(int64(len(s.buf)), end-start)], start)
			if n == 0 {
				if errors.Is(err, io.EOF) {
					return nil
				}
				return s.fail("read", string(e.Path), err)
			}
			head := binary.BigEndian.AppendUint64(nil, uint64(start))
			if err := s.w.Write(frame.Chunk, head, s.buf[:n]); err != nil {
				return err
			}
			start += int64(n)
		}
		off = end
	}
	return nil
}

// dataRange returns the next range of f that is no hole, from off on. It is
// empty, and at size, when only a hole is left.
func dataRange(f *os.File, off, size int64) (start, end int64, err error) {
	start, err = unix.Seek(int(f.Fd()), off, unix.SEEK_DATA)
	switch {
	case errors.Is(err, unix.ENXIO):
		return size, size, nil
	case errors.Is(err, unix.EINVAL), errors.Is(err, unix.EOPNOTSUPP):
		return off, size, nil // a file system without holes
	case err != nil:
		return 0, 0, err
	}
	end, err = unix.Seek(int(f.Fd()), start, unix.SEEK_HOLE)
	if err != nil {
		return 0, 0, err
	}
	return min(start, size), min(end, size), nil
}

func (s *sender) fail(op, rel string, err error) error {
	return fmt.Errorf("%s %q: %w", op, filepath.Join(s.shown, rel), err)
}

// openat opens one name of a directory, and follows no link.
func openat(dir int, name string, flags int) (*os.File, error) {
	for {
		fd, err := unix.Openat(dir, name, flags|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return nil, err
		}
		return os.NewFile(uintptr(fd), name), nil
	}
}
