package tree

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"banger/personas/guest/link/frame"
)

// Options say what a receiver grants.
type Options struct {
	// Owners sets the numeric owners that the stream says. Without it, all
	// belongs to the process.
	Owners bool
	// Trusted also takes device nodes, setuid, setgid and sticky bits,
	// capabilities and ACLs.
	Trusted bool
	// Sync writes the destination's file system to its disk at the end.
	Sync bool
}

// Unpack makes the trees that r carries, up to Done, at dest:
//
//   - where dest is a directory, each source lands in it under its name, and
//     one with Contents lands in it with what it contains;
//   - where dest is a file, the one source, a file, takes its place;
//   - where dest is missing, the one source becomes it; a slash at its end
//     says that it must be a directory.
//
// What stands at the place of a file is replaced; directories are merged. A copy
// that fails midway leaves what it has made.
func Unpack(r *frame.Reader, dest string, sources []Source, opt Options) error {
	if err := ValidSources(sources); err != nil {
		return err
	}
	u := receiver{r: r, dest: dest, sources: sources, opt: opt, source: -1}
	defer u.close()
	for {
		t, payload, err := r.Next()
		switch {
		case errors.Is(err, io.EOF):
			return io.ErrUnexpectedEOF
		case err != nil:
			return err
		}
		switch t {
		case frame.Entry:
			err = u.entry(payload)
		case frame.Chunk:
			err = u.chunk(payload)
		case frame.Done:
			return u.done()
		case frame.Failed:
			return frame.ReadFailure(payload)
		default:
			err = frame.Unexpected(t)
		}
		if err != nil {
			return err
		}
	}
}

// A receiver makes one copy. The file that is open takes the chunks that come;
// the stack holds the directories from the source's root to the current entry.
type receiver struct {
	r       *frame.Reader
	dest    string
	sources []Source
	opt     Options

	source int // index of the source that comes
	base   *os.File
	name   string // of the source's root in base
	stack  []level
	file   *os.File
	head   *entry // of file
	end    int64  // where the last chunk of file ended
}

// A level is a directory that still gets entries.
type level struct {
	path string
	dir  *os.File
	head *entry
	// keep leaves the directory's own attributes as they are.
	keep bool
}

func (u *receiver) entry(payload []byte) error {
	e, err := decodeEntry(payload)
	if err != nil {
		return err
	}
	if err := u.closeFile(); err != nil {
		return err
	}
	if e.Path == "" {
		return u.root(e)
	}
	if e.Source != u.source || u.base == nil {
		return fmt.Errorf("%w: entry without its source", frame.ErrProtocol)
	}
	parent, name := split(string(e.Path))
	if err := u.popTo(parent); err != nil {
		return err
	}
	if len(u.stack) == 0 {
		return fmt.Errorf("%w: %q comes before its directory", frame.ErrProtocol, string(e.Path))
	}
	return u.make(u.stack[len(u.stack)-1].dir, name, e)
}

// split returns the directory of a valid path, and its last name.
func split(p string) (dir, name string) {
	i := strings.LastIndexByte(p, '/')
	if i < 0 {
		return "", p
	}
	return p[:i], p[i+1:]
}

// root begins the next source, whose own entry is e.
func (u *receiver) root(e *entry) error {
	if e.Source != u.source+1 || e.Source >= len(u.sources) || e.Kind == kindLink {
		return fmt.Errorf("%w: unexpected source", frame.ErrProtocol)
	}
	if err := u.leave(); err != nil {
		return err
	}
	u.source = e.Source
	src := u.sources[e.Source]
	if src.Contents && e.Kind != kindDir {
		return fmt.Errorf("copy %q: %w", string(src.Name), errNotDir)
	}
	place, name, err := u.place(src, e.Kind == kindDir)
	if err != nil {
		return err
	}
	u.base, err = os.OpenFile(place, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	u.name = name
	if name != "" {
		return u.make(u.base, name, e)
	}
	dir, err := openat(int(u.base.Fd()), ".", unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return u.fail("open", "", err)
	}
	u.stack = append(u.stack, level{dir: dir, head: e, keep: true})
	return nil
}

// place decides where a source goes: the directory, and the name in it. An empty
// name is the directory itself.
func (u *receiver) place(src Source, isDir bool) (dir, name string, err error) {
	info, err := os.Stat(u.dest)
	switch {
	case err == nil && info.IsDir() && src.Contents:
		return u.dest, "", nil
	case err == nil && info.IsDir():
		return u.dest, string(src.Name), nil
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return "", "", err
	case len(u.sources) > 1, err == nil && isDir, !isDir && strings.HasSuffix(u.dest, "/"):
		return "", "", fmt.Errorf("copy to %q: %w", u.dest, errNotDir)
	}
	to := filepath.Clean(u.dest)
	if err == nil {
		// cp writes into the file that a link leads to.
		if to, err = filepath.EvalSymlinks(to); err != nil {
			return "", "", err
		}
	}
	dir, name = filepath.Split(to)
	if dir == "" {
		dir = "."
	}
	if !validName(name) {
		return "", "", fmt.Errorf("copy to %q: %w", u.dest, fs.ErrInvalid)
	}
	return dir, name, nil
}

func (u *receiver) chunk(payload []byte) error {
	if u.file == nil || len(payload) <= offsetBytes {
		return frame.Unexpected(frame.Chunk)
	}
	off, data := binary.BigEndian.Uint64(payload), payload[offsetBytes:]
	if off < uint64(u.end) || off > uint64(u.head.Size) || uint64(len(data)) > uint64(u.head.Size)-off {
		return fmt.Errorf("%w: data outside of its file", frame.ErrProtocol)
	}
	if _, err := u.file.WriteAt(data, int64(off)); err != nil {
		return u.fail("write", string(u.head.Path), err)
	}
	u.end = int64(off) + int64(len(data))
	return nil
}

// done ends the last source.
func (u *receiver) done() error {
	if err := u.closeFile(); err != nil {
		return err
	}
	if u.source != len(u.sources)-1 {
		return fmt.Errorf("%w: only %d of %d sources came", frame.ErrProtocol, u.source+1, len(u.sources))
	}
	base := u.base
	u.base = nil
	defer base.Close()
	if err := u.popAll(); err != nil {
		return err
	}
	if u.opt.Sync {
		if err := unix.Syncfs(int(base.Fd())); err != nil {
			return fmt.Errorf("sync %q: %w", u.dest, err)
		}
	}
	return nil
}

// leave ends the source that was current.
func (u *receiver) leave() error {
	err := u.popAll()
	if u.base != nil {
		u.base.Close()
		u.base = nil
	}
	return err
}

// popTo ends the directories that get no more entries, down to the one at path.
func (u *receiver) popTo(path string) error {
	for len(u.stack) > 0 && u.stack[len(u.stack)-1].path != path {
		if err := u.pop(); err != nil {
			return err
		}
	}
	return nil
}

func (u *receiver) popAll() error {
	for len(u.stack) > 0 {
		if err := u.pop(); err != nil {
			return err
		}
	}
	return nil
}

// pop ends one directory: its attributes come last, because its entries change
// its time and its mode might forbid them.
func (u *receiver) pop() error {
	top := u.stack[len(u.stack)-1]
	u.stack = u.stack[:len(u.stack)-1]
	defer top.dir.Close()
	if top.keep {
		return nil
	}
	return u.finish(top.dir, top.head)
}

// close releases what a failed copy has open.
func (u *receiver) close() {
	if u.file != nil {
		u.file.Close()
	}
	for _, l := range u.stack {
		l.dir.Close()
	}
	if u.base != nil {
		u.base.Close()
	}
}

func (u *receiver) fail(op, rel string, err error) error {
	return fmt.Errorf("%s %q: %w", op, filepath.Join(u.dest, u.name, rel), err)
}
