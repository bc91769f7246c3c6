package netns

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"

	"golang.org/x/sys/unix"
)

// threadNS is the network namespace of the thread that opens it. /proc/self is
// that of the first thread, which need not be the same.
const threadNS = "/proc/thread-self/ns/net"

// space is a network namespace. The zero value is the one that the process is
// in, and working there needs no right to change namespaces.
type space struct {
	f *os.File
}

// fd is what netlink's libraries take for the namespace: zero for the own one.
func (s space) fd() int {
	if s.f == nil {
		return 0
	}
	return int(s.f.Fd())
}

func (s space) close() error {
	if s.f == nil {
		return nil
	}
	return s.f.Close()
}

// do runs fn in the namespace, for what depends on the thread's namespace:
// opening /dev/net/tun, making sockets, /proc/sys/net.
func (s space) do(fn func() error) error {
	if s.f == nil {
		return fn()
	}
	return onThread(func() error {
		if err := unix.Setns(s.fd(), unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("enter network namespace: %w", err)
		}
		return fn()
	})
}

// onThread runs fn on a thread that goes back to its network namespace
// afterwards. If it cannot, the thread is thrown away. It always goes back, for
// if it is the process's first thread, it cannot be thrown away, and the whole
// process would then seem to be elsewhere in /proc.
func onThread(fn func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		before, err := os.Open(threadNS)
		if err != nil {
			runtime.UnlockOSThread()
			done <- err
			return
		}
		defer before.Close()
		err = fn()
		back := unix.Setns(int(before.Fd()), unix.CLONE_NEWNET)
		if back == nil {
			runtime.UnlockOSThread()
		}
		done <- err
	}()
	return <-done
}

// currentSpace opens the namespace of the calling process, as a descriptor
// that stays valid when the process moves.
func currentSpace() (space, error) {
	f, err := os.Open(threadNS)
	if err != nil {
		return space{}, fmt.Errorf("open own network namespace: %w", err)
	}
	return space{f}, nil
}

// openSpace opens the namespace that is mounted at path. An ordinary file there
// is what a crash between making the file and mounting on it leaves, and counts
// as absent.
func openSpace(path string) (space, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return space{}, fmt.Errorf("open network namespace: %w", err)
	}
	if !isSpace(f) {
		f.Close()
		return space{}, fmt.Errorf("open network namespace %s: not mounted: %w", path, fs.ErrNotExist)
	}
	return space{f}, nil
}

func isSpace(f *os.File) bool {
	typ, err := unix.IoctlRetInt(int(f.Fd()), unix.NS_GET_NSTYPE)
	return err == nil && typ == unix.CLONE_NEWNET
}

// createSpace makes a namespace and mounts it at path, as ip-netns(8) does, so
// that it stays without a process.
func createSpace(path string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_RDONLY|os.O_CREATE|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0o444)
	if err != nil {
		return err
	}
	f.Close()
	return onThread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("create network namespace: %w", err)
		}
		if err := unix.Mount(threadNS, path, "none", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("mount network namespace at %s: %w", path, err)
		}
		return nil
	})
}

// removeSpace unmounts the namespace and removes its file, and the directory if
// nobody else's namespace is in it.
func removeSpace(path string) error {
	for {
		err := unix.Unmount(path, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
		if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT) {
			break // no mount is left there
		}
		if err != nil {
			return fmt.Errorf("unmount network namespace %s: %w", path, err)
		}
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	_ = os.Remove(filepath.Dir(path)) // refused, rightly, when it is not empty
	return nil
}
