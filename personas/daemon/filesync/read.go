package filesync

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
	"unicode/utf8"

	"golang.org/x/sys/unix"

	"banger/personas/guest/link"
)

// Bounds of all entries together, names included, within which they fit into a boot
// configuration (link/frame.MaxBoot). What is larger is no setting, and goes by
// `banger vm cp`.
const (
	maxFiles = 1000
	maxBytes = 4 << 20
	maxDepth = 32
)

// Read reads what entries name below home, and returns it as files for the guest.
// The index of each entry whose host side is not there is in missing, and so is no
// error. Anything else that is wrong with one is: no file is left out silently.
// Sockets in a directory are, because a socket is its process.
func Read(home string, entries []Entry) (files []link.File, missing []int, err error) {
	if len(entries) == 0 {
		return nil, nil, nil
	}
	fd, err := unix.Open(home, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("file_sync: %w", &fs.PathError{Op: "open home", Path: home, Err: err})
	}
	defer unix.Close(fd)
	r := reader{home: fd}
	for i, e := range entries {
		r.entry = e
		f, err := r.open(e.Host)
		if errors.Is(err, fs.ErrNotExist) {
			missing = append(missing, i)
			continue
		}
		if err == nil {
			err = r.read(f, "", nil)
		}
		if err != nil {
			return nil, nil, fmt.Errorf("file_sync[%d]: %w", i, err)
		}
	}
	return r.files, missing, nil
}

// A reader reads one entry after the other.
type reader struct {
	home  int // descriptor
	entry Entry
	files []link.File
	bytes int64
	names int // in directories, by every way that leads to them
}

// inode identifies a directory, by whatever way one has come to it.
type inode struct{ dev, ino uint64 }

// read takes f, which is rel below the current entry, and closes it. Above are the
// directories that lead to it.
func (r *reader) read(f *os.File, rel string, above []inode) error {
	defer f.Close()
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return r.fail("stat", rel, err)
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		return r.readFile(f, rel)
	case unix.S_IFDIR:
		return r.readDir(f, rel, inode{st.Dev, st.Ino}, above)
	}
	return r.fail("read", rel, errors.New("it is neither a file nor a directory"))
}

func (r *reader) readFile(f *os.File, rel string) error {
	if len(r.files) == maxFiles {
		return r.fail("read", rel, fmt.Errorf("there are more than %d files", maxFiles))
	}
	name := link.Home + path.Join(r.entry.Guest, rel)
	if !utf8.ValidString(name) {
		return r.fail("read", rel, errors.New("its name is no text"))
	}
	// A name may take six times its length on the way, where it has to be escaped.
	r.bytes += 6 * int64(len(name))
	left := maxBytes - r.bytes
	data, err := io.ReadAll(io.LimitReader(f, left+1))
	if err != nil {
		return r.fail("read", rel, err)
	}
	if int64(len(data)) > left { // which may be less than nothing
		return r.fail("read", rel, fmt.Errorf("there is more than %d MiB: copy it with \"banger vm cp\"", maxBytes>>20))
	}
	r.bytes += int64(len(data))
	r.files = append(r.files, link.File{
		Path: name, Mode: uint32(r.entry.Mode.Perm()), Data: data,
	})
	return nil
}

func (r *reader) readDir(f *os.File, rel string, self inode, above []inode) error {
	if slices.Contains(above, self) || len(above) == maxDepth {
		return r.fail("read", rel, errors.New("the directories lie in each other without end"))
	}
	above = append(above, self)
	names, err := f.Readdirnames(maxFiles + 1)
	if err != nil && !errors.Is(err, io.EOF) {
		return r.fail("read", rel, err)
	}
	if r.names += len(names); r.names > maxFiles {
		return r.fail("read", rel, fmt.Errorf("there are more than %d files and directories", maxFiles))
	}
	slices.Sort(names)
	for _, name := range names {
		at := path.Join(rel, name)
		next, err := r.open(path.Join(r.entry.Host, at))
		if errors.Is(err, unix.ENXIO) {
			continue // a socket
		}
		if err != nil {
			return err
		}
		if err := r.read(next, at, above); err != nil {
			return err
		}
	}
	return nil
}

// tries is how often a look-up that a rename has disturbed is made again.
const tries = 16

// open opens a path below the home for reading. Links are followed as long as they
// do not leave it.
func (r *reader) open(rel string) (*os.File, error) {
	how := unix.OpenHow{
		// Without O_NONBLOCK a FIFO would wait for its writer.
		Flags:   unix.O_RDONLY | unix.O_NONBLOCK | unix.O_NOCTTY | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_MAGICLINKS,
	}
	var fd int
	var err error
	for range tries {
		fd, err = unix.Openat2(r.home, rel, &how)
		if !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EINTR) {
			break
		}
	}
	shown := "~/" + rel
	if errors.Is(err, unix.EXDEV) {
		return nil, fmt.Errorf("open %q: a link on the way leads out of the home, or is absolute", shown)
	}
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: shown, Err: err}
	}
	return os.NewFile(uintptr(fd), shown), nil
}

func (r *reader) fail(op, rel string, err error) error {
	return fmt.Errorf("%s %q: %w", op, strings.TrimSuffix("~/"+path.Join(r.entry.Host, rel), "/"), err)
}
