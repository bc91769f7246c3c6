package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"

	"banger/ops"
)

// kind is a descriptor that is neither a disk nor a kernel, and how it is opened.
type kind struct {
	open func() (*os.File, error)
	// kernel tells that it may be a kernel all the same.
	kernel bool
}

// kinds are all that an owner can get hold of.
func (a *attacker) kinds() map[string]kind {
	at := func(name string) string { return filepath.Join(a.dir, name) }
	opened := func(path string, flags int) kind {
		return kind{open: func() (*os.File, error) { return os.OpenFile(path, flags, 0) }}
	}
	made := func(fd int, err error) (*os.File, error) {
		if err != nil {
			return nil, err
		}
		return os.NewFile(uintptr(fd), "made"), nil
	}
	// own opens a disk of the attacker's after something has been done to its name.
	own := func(flags int, change func(path string) error) func() (*os.File, error) {
		return func() (*os.File, error) {
			f, err := a.disk("kind")
			if err != nil {
				return nil, err
			}
			defer f.Close()
			g, err := os.OpenFile(f.Name(), flags, 0)
			if err == nil && change != nil {
				err = change(f.Name())
			}
			return g, err
		}
	}
	link := func(old string) func() (*os.File, error) {
		return func() (*os.File, error) {
			name := at("link-" + filepath.Base(old))
			if err := os.Link(old, name); err != nil {
				return nil, err
			}
			return os.Open(name)
		}
	}
	return map[string]kind{
		"directory": opened(a.dir, os.O_RDONLY),
		"fifo": {open: func() (*os.File, error) {
			err := unix.Mkfifo(at("fifo"), 0o600)
			if err != nil && err != unix.EEXIST {
				return nil, err
			}
			return os.OpenFile(at("fifo"), os.O_RDWR, 0)
		}},
		"pipe": {open: func() (*os.File, error) {
			r, w, err := os.Pipe()
			if err == nil {
				w.Close()
			}
			return r, err
		}},
		"socket":    {open: func() (*os.File, error) { return made(unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0)) }},
		"eventfd":   {open: func() (*os.File, error) { return made(unix.Eventfd(0, 0)) }},
		"epoll":     {open: func() (*os.File, error) { return made(unix.EpollCreate1(0)) }},
		"inotify":   {open: func() (*os.File, error) { return made(unix.InotifyInit1(0)) }},
		"pidfd":     {open: func() (*os.File, error) { return made(unix.PidfdOpen(os.Getpid(), 0)) }},
		"pid 1":     {open: func() (*os.File, error) { return made(unix.PidfdOpen(1, 0)) }},
		"namespace": opened("/proc/self/ns/net", os.O_RDONLY),
		"memfd": {open: func() (*os.File, error) {
			f, err := made(unix.MemfdCreate("disk", 0))
			if err == nil {
				err = f.Truncate(diskBytes)
			}
			return f, err
		}},
		"answer of the helper's": {open: func() (*os.File, error) {
			_, files, err := ops.Reconcile.Call(context.Background(), a.client, ops.None{})
			if err != nil {
				return nil, err
			}
			return files[0], nil
		}},
		"resolver's socket": {open: func() (*os.File, error) {
			_, files, err := ops.Resolver.Call(context.Background(), a.client, ops.None{})
			if err != nil {
				return nil, err
			}
			files[1].Close()
			return files[0], nil
		}},
		"/dev/null": opened("/dev/null", os.O_RDWR), "/dev/zero": opened("/dev/zero", os.O_RDWR),
		"/dev/full": opened("/dev/full", os.O_RDWR), "/dev/urandom": opened("/dev/urandom", os.O_RDONLY),
		"/dev/ptmx": opened("/dev/ptmx", os.O_RDWR), "/dev/fuse": opened("/dev/fuse", os.O_RDWR),
		"/dev/net/tun": opened("/dev/net/tun", os.O_RDWR), "/dev/kvm": opened("/dev/kvm", os.O_RDWR),
		"/dev/kmsg": opened("/dev/kmsg", os.O_RDONLY), "/dev/vda": opened("/dev/vda", os.O_RDONLY),
		"/dev/loop0": opened("/dev/loop0", os.O_RDONLY), "/dev/mem": opened("/dev/mem", os.O_RDONLY),
		"/etc/shadow": opened("/etc/shadow", os.O_RDONLY), "/etc/shadow by O_PATH": opened("/etc/shadow", unix.O_PATH),
		"/dev/vda by O_PATH": opened("/dev/vda", unix.O_PATH), "/dev/loop0 by O_PATH": opened("/dev/loop0", unix.O_PATH),
		"/etc/passwd": opened("/etc/passwd", os.O_RDONLY), "/usr/bin/true": opened("/usr/bin/true", os.O_RDONLY),
		"mallory's": opened("/var/tmp/mallory", os.O_RDWR),
		"/proc":     opened("/proc/self/mem", os.O_RDWR), "/proc/maps": opened("/proc/self/maps", os.O_RDONLY),
		"/sys": opened("/sys/kernel/mm/transparent_hugepage/enabled", os.O_RDONLY), "cgroup": opened("/sys/fs/cgroup/cgroup.procs", os.O_RDONLY),
		"hard link to /etc/passwd": {open: link("/etc/passwd")}, "hard link to /etc/shadow": {open: link("/etc/shadow")},
		"hard link to mallory's": {open: link("/var/tmp/mallory")},
		"O_PATH":                 {open: own(unix.O_PATH, nil)}, "O_WRONLY": {open: own(os.O_WRONLY, nil)}, "O_APPEND": {open: own(os.O_RDWR|os.O_APPEND, nil)},
		"O_TMPFILE": {open: func() (*os.File, error) {
			f, err := made(unix.Open(a.dir, unix.O_TMPFILE|unix.O_RDWR, 0o600))
			if err == nil {
				err = f.Truncate(diskBytes)
			}
			return f, err
		}},
		"two names":     {open: own(os.O_RDWR, func(path string) error { return os.Link(path, path+".too") })},
		"no name":       {open: own(os.O_RDWR, os.Remove)},
		"read-only":     {kernel: true, open: own(os.O_RDONLY, nil)},
		"empty":         {kernel: true, open: own(os.O_RDWR, func(path string) error { return os.Truncate(path, 0) })},
		"half a sector": {kernel: true, open: own(os.O_RDWR, func(path string) error { return os.Truncate(path, 700) })},
	}
}

// files hands over each kind of descriptor that is no disk, in each place of each
// operation that takes any, and looks that it is what it was before.
func (a *attacker) files() (err error) {
	ctx := context.Background()
	vm, release, err := a.reserve(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, release()) }()
	var good []*os.File
	defer func() { closeAll(good) }()
	for range ops.MaxFilesIn {
		f, err := a.disk("good")
		if err != nil {
			return err
		}
		good = append(good, f)
	}
	w := &wire{socket: a.socket}
	defer w.close()
	kinds := a.kinds()
	for _, name := range slices.Sorted(maps.Keys(kinds)) {
		bad, err := kinds[name].open()
		if errors.Is(err, fs.ErrPermission) || errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENXIO) || errors.Is(err, unix.ENODEV) {
			a.tally("not to be had", name)
			continue
		}
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		before := look(bad)
		for _, op := range ops.All() {
			if err := a.hand(w, op, vm.Handle, good, bad, name, kinds[name].kernel); err != nil {
				return err
			}
		}
		if after := look(bad); after != before {
			a.breach("%s: it was %s, and is %s", name, before, after)
		}
		bad.Close()
	}
	return nil
}

// hand gives bad in each place of an operation, with good ones before it.
func (a *attacker) hand(w *wire, op ops.Declared, handle string, good []*os.File, bad *os.File, name string, kernel bool) error {
	d := op.Declaration()
	s, err := wellFormed(op, handle, digest)
	if err != nil {
		return err
	}
	if s.args["handle"] == nil { // what is asked for is the content
		if kernel {
			return nil
		}
		if s, err = wellFormed(op, handle, digestOf(content(bad))); err != nil {
			return err
		}
	}
	for place := range d.MaxFiles {
		files := append(slices.Clone(good[:place]), bad)
		for len(files) < d.MinFiles {
			files = append(files, good[len(files)])
		}
		got, err := w.say(s.envelope(nil), fdsOf(files)...)
		if err != nil {
			return err
		}
		closeAll(got.files)
		a.tally(d.Name, got.code)
		if got.code != string(ops.Invalid) {
			a.breach("%s: %s in place %d: %s: %s", d.Name, name, place, got.code, got.text)
		}
	}
	return nil
}

// content is what a regular file holds, as far as it can be read.
func content(f *os.File) string {
	info, err := f.Stat()
	if err != nil || !info.Mode().IsRegular() || info.Size() > 4*diskBytes {
		return "unknown"
	}
	data, _ := io.ReadAll(io.NewSectionReader(f, 0, info.Size()))
	return string(data)
}

// look tells what may not change about a file.
func look(f *os.File) string {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return err.Error()
	}
	return fmt.Sprintf("mode %o of %d:%d, %d names", st.Mode, st.Uid, st.Gid, st.Nlink)
}
