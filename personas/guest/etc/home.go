package etc

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/moby/sys/user"
	"golang.org/x/sys/unix"

	"banger/personas/guest/link"
)

// writeHome writes the files that lie in the home of the user that commands run
// as. A link in that home does not lead root out of it. The host sends them once in
// a VM's life, so they are on the disk when writeHome returns.
func (t Tree) writeHome(files []link.File, who string) error {
	var mine []link.File
	for _, f := range files {
		if rel, ok := strings.CutPrefix(f.Path, link.Home); ok {
			f.Path = rel
			mine = append(mine, f)
		}
	}
	if len(mine) == 0 {
		return nil
	}
	h, err := t.openHome(who)
	if err != nil {
		return fmt.Errorf("write files of the user's home: %w", err)
	}
	defer h.root.Close()
	var errs []error
	for _, f := range mine {
		if err := h.write(f); err != nil {
			errs = append(errs, fmt.Errorf("write ~/%s: %w", f.Path, err))
		}
	}
	return errors.Join(append(errs, h.sync())...)
}

// home is the home of a user of the guest.
type home struct {
	root     *os.Root
	uid, gid int
}

// openHome opens the home of the user that a command would run as, and makes it
// where the image has only its name.
func (t Tree) openHome(who string) (*home, error) {
	name, _, _ := strings.Cut(who, ":")
	if name == "" {
		name = "0"
	}
	users, err := user.ParsePasswdFileFilter(t.path("/etc/passwd"), func(u user.User) bool { return u.Name == name || uid(u) == name })
	switch {
	case err != nil:
		return nil, err
	case len(users) == 0:
		return nil, fmt.Errorf("the guest has no user %q", name)
	case !filepath.IsAbs(users[0].Home):
		return nil, fmt.Errorf("user %q has no home", name)
	}
	u := users[0]
	dir := t.path(u.Home)
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return nil, err
	}
	if err = os.Mkdir(dir, 0o700); err == nil {
		err = os.Lchown(dir, u.Uid, u.Gid)
	}
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, err
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	return &home{root, u.Uid, u.Gid}, nil
}

// write replaces one file.
func (h *home) write(f link.File) error {
	dir, name := path.Split(f.Path)
	if err := h.makeDirs(path.Clean(dir)); err != nil {
		return err
	}
	tmp := path.Join(dir, ".banger-"+rand.Text()[:8])
	if err := h.writeNew(tmp, f); err != nil {
		return err
	}
	if err := h.root.Rename(tmp, path.Join(dir, name)); err != nil {
		_ = h.root.Remove(tmp) // the error of the rename says more
		return err
	}
	return nil
}

func (h *home) writeNew(name string, f link.File) error {
	file, err := h.root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer file.Close()
	if _, err := file.Write(f.Data); err != nil {
		return err
	}
	if err := file.Chown(h.uid, h.gid); err != nil {
		return err
	}
	return file.Chmod(fs.FileMode(f.Mode).Perm())
}

// makeDirs makes the directories on the way that are missing.
func (h *home) makeDirs(dir string) error {
	if dir == "." {
		return nil
	}
	at := ""
	for name := range strings.SplitSeq(dir, "/") {
		at = path.Join(at, name)
		err := h.root.Mkdir(at, 0o700)
		if errors.Is(err, fs.ErrExist) {
			continue
		}
		if err == nil {
			err = h.root.Lchown(at, h.uid, h.gid)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (h *home) sync() error {
	dir, err := h.root.Open(".")
	if err != nil {
		return err
	}
	defer dir.Close()
	return os.NewSyscallError("syncfs", unix.Syncfs(int(dir.Fd())))
}
