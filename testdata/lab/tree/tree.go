// Package tree makes the file system of the lab's hosts: Debian with systemd,
// a kernel's modules and two users. It lies in the cache of test assets, and is
// made anew when what it is made of has changed.
package tree

import (
	"context"
	"crypto/sha256"
	_ "embed"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// What testdata/assets.sh makes the tree of.
const (
	packages = "lab.tar"
	kernel   = "linux-image-cloud.deb"
)

//go:embed dress.sh
var dress string

// Tree is a file system in the cache. Nobody writes to it.
type Tree struct {
	// Dir is its root.
	Dir string
	// Kernel is a kernel that the modules in it are for, and Release its release.
	Kernel, Release string
	// Digest names what the tree was made of.
	Digest string
}

// Cache returns the directory that test assets lie in.
func Cache() (string, error) {
	if dir := os.Getenv("BANGER_TEST_CACHE"); dir != "" {
		return dir, nil
	}
	dir, err := os.UserCacheDir()
	return filepath.Join(dir, "banger-test"), err
}

// Open returns the tree, and makes it where it is not there. It says on tell
// what takes long. Only root can.
func Open(ctx context.Context, tell func(string)) (Tree, error) {
	cache, err := Cache()
	if err != nil {
		return Tree{}, err
	}
	digest, err := recipe(cache)
	if err != nil {
		return Tree{}, err
	}
	lab := filepath.Join(cache, "lab")
	if err := os.MkdirAll(lab, 0o755); err != nil {
		return Tree{}, err
	}
	lock, err := Lock(filepath.Join(lab, "tree.lock"))
	if err != nil {
		return Tree{}, err
	}
	defer lock.Close()
	dir := filepath.Join(lab, "tree-"+digest)
	if _, err := os.Stat(dir); err != nil {
		tell("lab: unpacking the tree")
		if err := clear(lab); err != nil {
			return Tree{}, err
		}
		if err := unpack(ctx, cache, dir); err != nil {
			return Tree{}, fmt.Errorf("make tree: %w", err)
		}
	}
	t := Tree{Dir: dir, Digest: digest}
	kernels, err := filepath.Glob(dir + "/boot/vmlinuz-*")
	if err != nil || len(kernels) != 1 {
		return Tree{}, fmt.Errorf("find kernel in %s: there are %d", dir, len(kernels))
	}
	t.Kernel = kernels[0]
	t.Release = strings.TrimPrefix(filepath.Base(t.Kernel), "vmlinuz-")
	return t, nil
}

// Lock takes the lock that a file stands for, and waits for it. Closing the
// file releases it.
func Lock(name string) (*os.File, error) {
	f, err := os.OpenFile(name, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
		f.Close()
		return nil, fmt.Errorf("lock %s: %w", name, err)
	}
	return f, nil
}

// recipe returns a digest over what the tree is made of. Assets are known by
// their size and time, for they are large and never written twice.
func recipe(cache string) (string, error) {
	h := sha256.New()
	for _, name := range []string{packages, kernel} {
		st, err := os.Stat(filepath.Join(cache, name))
		if err != nil {
			return "", fmt.Errorf("%w: run testdata/assets.sh %s %s", err, packages, kernel)
		}
		fmt.Fprintln(h, name, st.Size(), st.ModTime().UnixNano())
	}
	fmt.Fprint(h, dress)
	return fmt.Sprintf("%x", h.Sum(nil)[:6]), nil
}

// clear removes trees that were made of something else, and what a killed
// program has left.
func clear(lab string) error {
	old, err := filepath.Glob(filepath.Join(lab, "tree-*"))
	if err != nil {
		return err
	}
	for _, dir := range old {
		if err := os.RemoveAll(dir); err != nil {
			return err
		}
	}
	return nil
}

// unpack makes the tree beside its place, and puts it there when it is whole.
func unpack(ctx context.Context, cache, dir string) error {
	making := dir + ".making"
	if err := os.Mkdir(making, 0o755); err != nil {
		return err
	}
	for _, argv := range [][]string{
		{"tar", "-C", making, "--numeric-owner", "--xattrs", "--xattrs-include=*", "-xf", filepath.Join(cache, packages)},
		{"dpkg-deb", "-x", filepath.Join(cache, kernel), filepath.Join(making, "kernel")},
		{"sh", "-euc", dress, "dress", making},
	} {
		out, err := exec.CommandContext(ctx, argv[0], argv[1:]...).CombinedOutput()
		if err != nil {
			os.RemoveAll(making)
			return fmt.Errorf("%s: %w: %s", argv[0], err, out)
		}
	}
	return os.Rename(making, dir)
}
