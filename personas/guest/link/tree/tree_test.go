package tree

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"banger/personas/guest/link/frame"
)

// transfer copies paths to dest through a pipe.
func transfer(t *testing.T, paths []string, dest string, opt Options) error {
	t.Helper()
	r, w := io.Pipe()
	packed := make(chan error, 1)
	go func() {
		err := Pack(frame.NewWriter(w), paths)
		w.CloseWithError(err)
		packed <- err
	}()
	sources := make([]Source, len(paths))
	for i, p := range paths {
		sources[i] = SourceOf("/", p)
	}
	err := Unpack(frame.NewReader(r), dest, sources, opt)
	r.CloseWithError(errors.New("receiver has ended"))
	if packErr := <-packed; err == nil && packErr != nil {
		t.Fatalf("unpack is content with what pack calls %v", packErr)
	}
	return err
}

// listing describes a tree, one line a file, all that a copy shall keep.
func listing(t *testing.T, root string) (lines []string) {
	t.Helper()
	err := filepath.WalkDir(root, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return err
		}
		rel, _ := filepath.Rel(root, path)
		line := fmt.Sprintf("%q mode %o owner %d:%d time %d.%09d", rel, st.Mode, st.Uid, st.Gid, st.Mtim.Sec, st.Mtim.Nsec)
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFREG:
			data, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			head := data[:min(len(data), 32)]
			line += fmt.Sprintf(" links %d size %d zero %v %q", st.Nlink, len(data), bytes.Count(data, []byte{0}) == len(data), head)
		case unix.S_IFLNK:
			target, _ := os.Readlink(path)
			line += fmt.Sprintf(" -> %q", target)
		case unix.S_IFCHR, unix.S_IFBLK:
			line += fmt.Sprintf(" device %x", st.Rdev)
		}
		if st.Mode&unix.S_IFMT == unix.S_IFREG || st.Mode&unix.S_IFMT == unix.S_IFDIR {
			f, err := os.Open(path)
			if err != nil {
				return err
			}
			for _, x := range readXattrs(int(f.Fd())) {
				line += fmt.Sprintf(" %s=%q", x.Name, x.Value)
			}
			f.Close()
		}
		lines = append(lines, line)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return lines
}

func must(t *testing.T, errs ...error) {
	t.Helper()
	for _, err := range errs {
		if err != nil {
			t.Fatal(err)
		}
	}
}

// exotic makes a tree with one of everything that the process may make.
func exotic(t *testing.T, dir string) {
	t.Helper()
	in := func(name string) string { return filepath.Join(dir, name) }
	must(t,
		os.MkdirAll(in("sub/deep/er"), 0o755),
		os.WriteFile(in("file"), []byte("content"), 0o640),
		os.WriteFile(in("empty"), nil, 0o400),
		os.WriteFile(in("name with \n newline and \xff"), []byte("x"), 0o600),
		os.WriteFile(in("sub/big"), bytes.Repeat([]byte("0123456789"), 100_000), 0o600),
		os.WriteFile(in("sub/old"), []byte("before 1970"), 0o600),
		os.Link(in("file"), in("sub/deep/hardlink")),
		os.Symlink("../file", in("sub/symlink")),
		os.Symlink("/no/where", in("dangling")),
		unix.Mkfifo(in("fifo"), 0o622),
		os.Chmod(in("fifo"), 0o622),
		os.Mkdir(in("locked"), 0o700),
		os.WriteFile(in("locked/in"), []byte("inside"), 0o000),
	)
	sparse, err := os.Create(in("sparse"))
	must(t, err)
	_, err = sparse.WriteAt([]byte("middle"), 5<<20)
	must(t, err, sparse.Truncate(64<<20), sparse.Close())
	for _, name := range []string{"file", "sub"} {
		err := unix.Setxattr(in(name), "user.note", []byte("kept"), 0)
		if err != nil && !errors.Is(err, unix.EOPNOTSUPP) {
			t.Fatal(err)
		}
	}
	if os.Geteuid() == 0 {
		must(t,
			os.Lchown(in("file"), 1234, 5678), os.Lchown(in("dangling"), 3, 4), os.Lchown(in("locked"), 7, 8),
			unix.Mknod(in("null"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))),
			unix.Chmod(in("sub/big"), 0o4755),
		)
		const lowPorts = "\x01\x00\x00\x02\x00\x04" // CAP_NET_BIND_SERVICE, permitted and in effect
		// Its mask is what the mode has for the group.
		list := "\x02\x00\x00\x00" + acl(1, 6, -1) + acl(2, 7, 1234) + acl(4, 0, -1) + acl(16, 4, -1) + acl(32, 0, -1)
		for _, x := range []struct{ name, attr, value string }{
			{"sub/big", "security.capability", lowPorts + strings.Repeat("\x00", 14)}, {"file", "system.posix_acl_access", list},
		} {
			if err := unix.Setxattr(in(x.name), x.attr, []byte(x.value), 0); err != nil && !errors.Is(err, unix.EOPNOTSUPP) {
				t.Fatal(x.attr, err)
			}
		}
	}
	must(t, os.Chmod(in("locked"), 0o500))
	t.Cleanup(func() { os.Chmod(in("locked"), 0o700) })
	old := []unix.Timespec{{Sec: -86400, Nsec: 5}, {Sec: -86400, Nsec: 5}}
	for _, name := range []string{"sub/old", "sub/symlink", "sub"} {
		must(t, unix.UtimesNanoAt(unix.AT_FDCWD, in(name), old, unix.AT_SYMLINK_NOFOLLOW))
	}
}

// acl is one entry of an access control list, as the kernel has it.
func acl(tag, perm uint16, id int32) string {
	b := binary.LittleEndian.AppendUint16(nil, tag)
	b = binary.LittleEndian.AppendUint16(b, perm)
	return string(binary.LittleEndian.AppendUint32(b, uint32(id)))
}

func TestCopyKeepsEverything(t *testing.T) {
	from, to := t.TempDir(), filepath.Join(t.TempDir(), "copy")
	exotic(t, from)
	if os.Geteuid() != 0 {
		t.Skip("needs root to read and keep all of it")
	}
	must(t, transfer(t, []string{from}, to, Options{Owners: true, Trusted: true}))
	if diff := cmp.Diff(listing(t, from), listing(t, to)); diff != "" {
		t.Fatalf("the copy differs:\n%s", diff)
	}
	var a, b unix.Stat_t
	must(t, unix.Stat(filepath.Join(from, "sparse"), &a), unix.Stat(filepath.Join(to, "sparse"), &b))
	if b.Blocks > a.Blocks+16 {
		t.Errorf("%d blocks of a sparse file became %d", a.Blocks, b.Blocks)
	}
	must(t, unix.Stat(filepath.Join(to, "file"), &a), unix.Stat(filepath.Join(to, "sub/deep/hardlink"), &b))
	if a.Ino != b.Ino {
		t.Error("two names of one file became two files")
	}
	// Once more, over what is there.
	must(t, transfer(t, []string{from + "/."}, to, Options{Owners: true, Trusted: true}))
	// But for the first line: a directory that only gets contents is not theirs.
	if diff := cmp.Diff(listing(t, from)[1:], listing(t, to)[1:]); diff != "" {
		t.Fatalf("the second copy differs:\n%s", diff)
	}
}

// asUser lets somebody else than root, who can make files in dir, do what do does.
func asUser(t *testing.T, dir string, do func() error) error {
	t.Helper()
	if os.Geteuid() != 0 {
		return do()
	}
	must(t, os.Chown(dir, 65534, 65534), os.Chmod(filepath.Dir(dir), 0o711))
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	_, err := unix.SetfsuidRetUid(65534)
	must(t, err)
	defer unix.SetfsuidRetUid(0)
	return do()
}

// For all but root, a file that is not to be written to takes no attributes.
func TestReadOnlyFileKeepsItsAttributesForAUser(t *testing.T) {
	from, to := t.TempDir(), t.TempDir()
	file := filepath.Join(from, "f")
	must(t, os.WriteFile(file, []byte("x"), 0o644))
	if err := unix.Setxattr(file, "user.note", []byte("kept"), 0); err != nil {
		t.Skipf("needs attributes on %s: %v", from, err)
	}
	must(t, os.Chmod(file, 0o444))
	must(t, asUser(t, to, func() error { return transfer(t, []string{file}, to, Options{}) }))
	var st unix.Stat_t
	must(t, unix.Stat(filepath.Join(to, "f"), &st))
	note := make([]byte, 16)
	n, err := unix.Getxattr(filepath.Join(to, "f"), "user.note", note)
	if st.Mode != unix.S_IFREG|0o444 || err != nil || string(note[:n]) != "kept" {
		t.Errorf("mode %o, attribute %q, %v", st.Mode, note[:max(n, 0)], err)
	}
}

func TestCopyOfTheUntrusted(t *testing.T) {
	from, to := t.TempDir(), t.TempDir()
	must(t, os.WriteFile(filepath.Join(from, "tool"), []byte("x"), 0o755), os.Chmod(filepath.Join(from, "tool"), os.ModeSetuid|os.ModeSticky|0o755))
	must(t, transfer(t, []string{filepath.Join(from, "tool")}, to, Options{}))
	info, err := os.Stat(filepath.Join(to, "tool"))
	must(t, err)
	if info.Mode() != 0o755 {
		t.Errorf("mode %v", info.Mode())
	}
	if os.Geteuid() != 0 {
		t.Skip("needs root to make a device")
	}
	must(t, unix.Mknod(filepath.Join(from, "disk"), unix.S_IFBLK|0o666, int(unix.Mkdev(7, 0))))
	if err := transfer(t, []string{from}, to, Options{Owners: true}); !errors.Is(err, unix.EPERM) {
		t.Errorf("a device: %v", err)
	}
}

// The rules of docker cp and cp -a.
func TestDestinations(t *testing.T) {
	for name, test := range map[string]struct {
		sources []string
		dest    string
		want    []string // files below the destination's root
		err     error
	}{
		"file into a directory":               {[]string{"f"}, "dir", []string{"dir/f"}, nil},
		"file into a directory, with slash":   {[]string{"f"}, "dir/", []string{"dir/f"}, nil},
		"file becomes a new name":             {[]string{"f"}, "dir/new", []string{"dir/new"}, nil},
		"file takes the place of a file":      {[]string{"f"}, "old", []string{"old"}, nil},
		"file into a missing directory":       {[]string{"f"}, "new/", nil, errNotDir},
		"file below a missing directory":      {[]string{"f"}, "new/er", nil, fs.ErrNotExist},
		"file through a link to a directory":  {[]string{"f"}, "todir", []string{"dir/f"}, nil},
		"file through a link to a file":       {[]string{"f"}, "tofile", []string{"old"}, nil},
		"directory becomes a new name":        {[]string{"d"}, "new", []string{"new/x"}, nil},
		"directory becomes a new name, slash": {[]string{"d"}, "new/", []string{"new/x"}, nil},
		"directory into a directory":          {[]string{"d"}, "dir", []string{"dir/d/x"}, nil},
		"contents into a directory":           {[]string{"d/."}, "dir", []string{"dir/x"}, nil},
		"contents become a new name":          {[]string{"d/."}, "new", []string{"new/x"}, nil},
		"directory over a file":               {[]string{"d"}, "old", nil, errNotDir},
		"contents of a file":                  {[]string{"f/."}, "dir", nil, unix.ENOTDIR},
		"link as such":                        {[]string{"l"}, "dir", []string{"dir/l"}, nil},
		"link followed by its slash":          {[]string{"l/"}, "dir", []string{"dir/l/x"}, nil},
		"many into a directory":               {[]string{"f", "d"}, "dir", []string{"dir/d/x", "dir/f"}, nil},
		"many to a new name":                  {[]string{"f", "d"}, "new", nil, errNotDir},
		"many to a file":                      {[]string{"f", "f"}, "old", nil, errNotDir},
		"file over a directory of its name":   {[]string{"taken"}, "dir", nil, unix.EISDIR},
		"missing source":                      {[]string{"nothing"}, "dir", nil, fs.ErrNotExist},
	} {
		t.Run(name, func(t *testing.T) {
			from, to := t.TempDir(), t.TempDir()
			must(t,
				os.WriteFile(filepath.Join(from, "f"), []byte("new"), 0o644), os.WriteFile(filepath.Join(from, "taken"), []byte("new"), 0o644),
				os.Mkdir(filepath.Join(from, "d"), 0o755), os.WriteFile(filepath.Join(from, "d/x"), []byte("new"), 0o644),
				os.Symlink("d", filepath.Join(from, "l")),
				os.MkdirAll(filepath.Join(to, "dir/taken"), 0o755), os.WriteFile(filepath.Join(to, "old"), []byte("old"), 0o644),
				os.Symlink("dir", filepath.Join(to, "todir")), os.Symlink("old", filepath.Join(to, "tofile")),
			)
			var paths []string
			for _, s := range test.sources {
				paths = append(paths, filepath.Join(from)+"/"+s)
			}
			err := transfer(t, paths, to+"/"+test.dest, Options{})
			if !errors.Is(err, test.err) {
				t.Fatalf("got %v, want %v", err, test.err)
			}
			var got []string
			filepath.WalkDir(to, func(path string, d fs.DirEntry, _ error) error {
				data, _ := os.ReadFile(path)
				if rel, _ := filepath.Rel(to, path); string(data) == "new" && rel != "tofile" || d.Name() == "l" && !d.IsDir() {
					got = append(got, rel)
				}
				return nil
			})
			if !slices.Equal(got, test.want) {
				t.Fatalf("got %q, want %q", got, test.want)
			}
		})
	}
}

// stream writes frames by hand, as a hostile guest would.
func stream(frames ...func(w *frame.Writer) error) io.Reader {
	var b bytes.Buffer
	w := frame.NewWriter(&b)
	for _, f := range frames {
		if err := f(w); err != nil {
			panic(err)
		}
	}
	return &b
}

func an(e entry) func(*frame.Writer) error {
	return func(w *frame.Writer) error { return w.JSON(frame.Entry, e) }
}

func data(off byte, text string) func(*frame.Writer) error {
	return func(w *frame.Writer) error {
		return w.Write(frame.Chunk, []byte{0, 0, 0, 0, 0, 0, 0, off}, []byte(text))
	}
}

func done(w *frame.Writer) error { return w.Write(frame.Done) }

func TestHostileStreams(t *testing.T) {
	dir := an(entry{Kind: kindDir, Mode: 0o755})
	file := func(path string) func(*frame.Writer) error {
		return an(entry{Path: frame.Raw(path), Kind: kindFile, Mode: 0o644, Size: 4})
	}
	link := func(path, to string) func(*frame.Writer) error {
		return an(entry{Path: frame.Raw(path), Kind: kindSymlink, Target: frame.Raw(to)})
	}
	for name, frames := range map[string][]func(*frame.Writer) error{
		"parent in the path":           {dir, file("../escaped"), data(0, "evil"), done},
		"parent further down":          {dir, an(entry{Path: "a", Kind: kindDir}), file("a/../../escaped"), done},
		"absolute path":                {dir, file("/tmp/escaped"), done},
		"empty name":                   {dir, file("a//b"), done},
		"dot":                          {dir, file("."), done},
		"NUL":                          {dir, file("a\x00b"), done},
		"through a link":               {dir, link("l", ".."), file("l/escaped"), data(0, "evil"), done},
		"through a link as directory":  {dir, link("l", ".."), an(entry{Path: "l", Kind: kindDir}), file("l/escaped"), done},
		"through the link that stands": {dir, an(entry{Path: "standing", Kind: kindDir}), file("standing/escaped"), data(0, "evil"), done},
		"hard link through a link":     {dir, link("l", ".."), an(entry{Path: "h", Kind: kindLink, Target: "l/secret"}), done},
		"hard link to parent":          {dir, an(entry{Path: "h", Kind: kindLink, Target: "../secret"}), done},
		"hard link absolute":           {dir, an(entry{Path: "h", Kind: kindLink, Target: "/etc/passwd"}), done},
		"hard link as a source":        {an(entry{Kind: kindLink, Target: "x"}), done},
		"device":                       {dir, an(entry{Path: "d", Kind: kindBlock, Rdev: 1792}), done},
		"unknown type":                 {dir, an(entry{Path: "d", Kind: "door"}), done},
		"file before its directory":    {dir, file("a/b"), done},
		"file without its source":      {file("a"), done},
		"another source":               {dir, an(entry{Source: 1, Kind: kindFile}), done},
		"negative source":              {an(entry{Source: -1, Kind: kindFile}), done},
		"the same source again":        {dir, dir, done},
		"data before a file":           {dir, data(0, "evil"), done},
		"data beyond the size":         {dir, file("f"), data(2, "evil"), done},
		"data backwards":               {dir, file("f"), data(2, "ab"), data(0, "cd"), done},
		"negative size":                {dir, an(entry{Path: "f", Kind: kindFile, Size: -1}), done},
		"too many mode bits":           {dir, an(entry{Path: "f", Kind: kindFile, Mode: 0o100644}), done},
		"no end":                       {dir, file("f"), data(0, "good")},
		"no source":                    {done},
		"another frame":                {dir, func(w *frame.Writer) error { return w.Write(frame.Stdout, []byte("x")) }},
	} {
		t.Run(name, func(t *testing.T) {
			top := t.TempDir()
			dest := filepath.Join(top, "dest")
			must(t, os.MkdirAll(filepath.Join(dest, "src"), 0o755), os.WriteFile(filepath.Join(top, "secret"), []byte("s"), 0o600),
				os.WriteFile(filepath.Join(dest, "secret"), []byte("s"), 0o600), os.Symlink("..", filepath.Join(dest, "src/standing")))
			err := Unpack(frame.NewReader(stream(frames...)), dest, []Source{{Name: "src"}}, Options{})
			if err == nil {
				t.Error("it was taken")
			}
			if strings.ContainsRune(fmt.Sprint(err), 0) {
				t.Errorf("an error that is not printable: %q", err)
			}
			filepath.WalkDir(top, func(path string, d fs.DirEntry, _ error) error {
				rel, _ := filepath.Rel(top, path)
				if !strings.HasPrefix(rel, "dest/src") && rel != "." && rel != "dest" && rel != "secret" && rel != "dest/secret" {
					t.Errorf("%q was made", rel)
				}
				var st unix.Stat_t
				if d.Name() == "secret" && (unix.Lstat(path, &st) != nil || st.Nlink != 1) {
					t.Errorf("%q has another name now", rel)
				}
				return nil
			})
		})
	}
}

func TestHugeSparseFile(t *testing.T) {
	dest := t.TempDir()
	r := stream(an(entry{Kind: kindFile, Mode: 0o600, Size: 1 << 40}), done)
	err := Unpack(frame.NewReader(r), dest, []Source{{Name: "f"}}, Options{})
	if err != nil && !errors.Is(err, unix.EFBIG) {
		t.Fatal(err)
	}
	var st unix.Stat_t
	must(t, unix.Stat(filepath.Join(dest, "f"), &st))
	if st.Blocks > 16 {
		t.Errorf("a hole takes %d blocks", st.Blocks)
	}
}

func TestSourceOf(t *testing.T) {
	for p, want := range map[string]Source{
		"/a/b": {Name: "b"}, "/a/b/": {Name: "b"}, "/a/b/.": {Name: "b", Contents: true}, "b": {Name: "b"},
		"/": {Name: "root", Contents: true}, "/..": {Name: "root", Contents: true}, ".": {Name: "here", Contents: true}, "../up": {Name: "up"},
	} {
		if got := SourceOf("/is/here", p); got != want {
			t.Errorf("%q: got %+v, want %+v", p, got, want)
		}
	}
}

// inMemory is a directory that is fast to make and to remove, where there is one.
func inMemory(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "tree-")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func FuzzUnpack(f *testing.F) {
	for _, frames := range [][]func(*frame.Writer) error{
		{an(entry{Kind: kindDir, Mode: 0o755}), an(entry{Path: "a", Kind: kindFile, Mode: 0o644, Size: 4}), data(0, "good"), done},
		{an(entry{Kind: kindDir}), an(entry{Path: "l", Kind: kindSymlink, Target: ".."}), an(entry{Path: "l/x", Kind: kindFile}), done},
		{an(entry{Kind: kindDir}), an(entry{Path: "f", Kind: kindFile}), an(entry{Path: "h", Kind: kindLink, Target: "f"}), done},
	} {
		all, _ := io.ReadAll(stream(frames...))
		f.Add(all)
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		top := inMemory(t)
		dest := filepath.Join(top, "dest")
		must(t, os.Mkdir(dest, 0o755))
		_ = Unpack(frame.NewReader(bytes.NewReader(in)), dest, []Source{{Name: "src"}}, Options{})
		names, err := os.ReadDir(top)
		must(t, err)
		inner, err := os.ReadDir(dest)
		must(t, err)
		if len(names) != 1 || len(inner) > 1 || len(inner) == 1 && inner[0].Name() != "src" {
			t.Fatalf("escaped: %v, %v", names, inner)
		}
	})
}
