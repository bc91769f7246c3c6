package install

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"banger/install/layout"
)

// host is the machine that is changed, or only said to be.
type host struct {
	root   string // prepended to all paths
	dryRun bool
	out    io.Writer
	// sockets says that the file of a socket unit has changed.
	sockets bool
	run     func(ctx context.Context, argv ...string) error
}

func (o *Options) host() *host {
	h := &host{root: o.Root, dryRun: o.DryRun, out: o.Out, run: o.Run}
	if h.run == nil {
		h.run = runProgram
	}
	return h
}

func (h *host) path(p string) string { return filepath.Join(h.root, p) }

// say tells what is done; the caller does nothing further if it returns true.
func (h *host) say(format string, args ...any) (dry bool) {
	fmt.Fprintf(h.out, format+"\n", args...)
	return h.dryRun
}

// writeFile writes a file as a whole or not at all. One that is right already is
// left alone.
func (h *host) writeFile(path string, data []byte, mode fs.FileMode) error {
	if sameBytes(h.path(path), data, mode) {
		return nil
	}
	h.sockets = h.sockets || strings.HasSuffix(path, ".socket")
	if h.say("write %s (mode %04o, %d bytes)", path, mode, len(data)) {
		return nil
	}
	return h.replace(path, bytes.NewReader(data), mode)
}

// copyFile copies a file of this host. One with the same content is left alone,
// so that processes that run it still do.
func (h *host) copyFile(from, path string, mode fs.FileMode) error {
	in, err := os.Open(from)
	if err != nil {
		return fmt.Errorf("copy %s: %w", from, err)
	}
	defer in.Close()
	if same, err := sameContent(in, h.path(path), mode); err != nil || same {
		return err
	}
	if h.say("copy %s to %s (mode %04o)", from, path, mode) {
		return nil
	}
	return h.replace(path, in, mode)
}

func sameContent(in *os.File, path string, mode fs.FileMode) (bool, error) {
	info, err := os.Lstat(path)
	if err != nil || !info.Mode().IsRegular() || info.Mode().Perm() != mode {
		return false, nil
	}
	old, err := os.Open(path)
	if err != nil {
		return false, fmt.Errorf("compare with %s: %w", path, err)
	}
	defer old.Close()
	digestIn, err := digest(in)
	if err != nil {
		return false, err
	}
	digestOld, err := digest(old)
	return digestIn == digestOld, err
}

func (h *host) replace(path string, in io.Reader, mode fs.FileMode) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("write %s: %w", path, err)
		}
	}()
	target := h.path(path)
	if err := makeDirs(filepath.Dir(target)); err != nil {
		return err
	}
	tmp, err := os.CreateTemp(filepath.Dir(target), ".banger-")
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name())
	defer tmp.Close()
	if _, err := io.Copy(tmp, in); err != nil {
		return err
	}
	if err := tmp.Chmod(mode); err != nil {
		return err
	}
	if err := tmp.Sync(); err != nil {
		return err
	}
	return os.Rename(tmp.Name(), target)
}

// unfinished is the name of a file that replace has not given its own yet.
var unfinished = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^\.banger-[0-9]+$`) })

// leftovers lists what a killed installer has left of replace and symlink, in the
// directories that it writes to.
func (h *host) leftovers(prefix string) (paths []string) {
	dirs := map[string]bool{
		layout.ConfigDir: true, filepath.Dir(layout.Binary(prefix)): true, filepath.Dir(layout.Firecracker): true,
	}
	for _, f := range files {
		dirs[filepath.Dir(f.path)] = true
	}
	ours := func(path string, kind uint32) bool {
		var st unix.Stat_t
		return unix.Lstat(h.path(path), &st) == nil && st.Mode&unix.S_IFMT == kind && int(st.Uid) == os.Geteuid()
	}
	for _, dir := range slices.Sorted(maps.Keys(dirs)) {
		entries, _ := os.ReadDir(h.path(dir)) // one that is missing has nothing in it
		for _, e := range entries {
			if path := filepath.Join(dir, e.Name()); unfinished().MatchString(e.Name()) && ours(path, unix.S_IFREG) {
				paths = append(paths, path)
			}
		}
	}
	for _, link := range layout.Links(prefix) {
		path := link + newSuffix
		if target, err := os.Readlink(h.path(path)); err == nil && target == "banger" && ours(path, unix.S_IFLNK) {
			paths = append(paths, path)
		}
	}
	return paths
}

// sweep removes them.
func (h *host) sweep(prefix string) error {
	var errs []error
	for _, path := range h.leftovers(prefix) {
		errs = append(errs, h.remove(path))
	}
	return errors.Join(errs...)
}

// makeDirs makes a directory and its parents with mode 0755, whatever the umask.
func makeDirs(dir string) error {
	if _, err := os.Stat(dir); err == nil {
		return nil
	}
	if err := makeDirs(filepath.Dir(dir)); err != nil {
		return err
	}
	if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return os.Chmod(dir, 0o755)
}

// newSuffix ends the name of a link that symlink has not given its own yet.
const newSuffix = ".new"

// symlink makes a link, replacing one that leads elsewhere.
func (h *host) symlink(target, path string) error {
	if got, err := os.Readlink(h.path(path)); err == nil && got == target {
		return nil
	}
	if h.say("link %s to %s", path, target) {
		return nil
	}
	tmp := h.path(path) + newSuffix
	_ = os.Remove(tmp)
	if err := os.Symlink(target, tmp); err != nil {
		return fmt.Errorf("link %s: %w", path, err)
	}
	if err := os.Rename(tmp, h.path(path)); err != nil {
		return fmt.Errorf("link %s: %w", path, err)
	}
	return nil
}

// remove removes a file or a link. What is gone is no error.
func (h *host) remove(path string) error {
	if _, err := os.Lstat(h.path(path)); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if h.say("remove %s", path) {
		return nil
	}
	if err := os.Remove(h.path(path)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove %s: %w", path, err)
	}
	return nil
}

// removeTree removes a directory with all that is in it. One that is a file system
// of its own is emptied, and given back to root.
func (h *host) removeTree(path string) error {
	if _, err := os.Lstat(h.path(path)); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if h.say("remove %s and all in it", path) {
		return nil
	}
	err := os.RemoveAll(h.path(path))
	if names, readErr := os.ReadDir(h.path(path)); errors.Is(err, unix.EBUSY) && readErr == nil && len(names) == 0 {
		h.say("leave %s, which is empty, and mounted", path)
		err = errors.Join(os.Chown(h.path(path), 0, 0), os.Chmod(h.path(path), 0o755))
	}
	if err != nil {
		return fmt.Errorf("remove %s: %w", path, err)
	}
	return nil
}

// removeEmpty removes a directory that nobody needs any more.
func (h *host) removeEmpty(path string) {
	if !h.dryRun {
		_ = unix.Rmdir(h.path(path)) // refused, rightly, when it is not empty, or a link
	}
}

// command runs a program.
func (h *host) command(ctx context.Context, argv ...string) error {
	if h.say("run %s", strings.Join(argv, " ")) {
		return nil
	}
	return h.run(ctx, argv...)
}

// commands runs programs until one fails.
func (h *host) commands(ctx context.Context, all [][]string) error {
	for _, argv := range all {
		if err := h.command(ctx, argv...); err != nil {
			return err
		}
	}
	return nil
}

func runProgram(ctx context.Context, argv ...string) error {
	out, err := exec.CommandContext(ctx, argv[0], argv[1:]...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("run %s: %w: %s", strings.Join(argv, " "), err, strings.TrimSpace(string(out)))
	}
	return nil
}

// onlyRoots refuses what layout.OnlyRoots does.
func onlyRoots(path string) error {
	err := layout.OnlyRoots(path)
	if errors.Is(err, layout.ErrForeign) {
		return fmt.Errorf("%w: %w", ErrRefused, err)
	}
	return err
}
