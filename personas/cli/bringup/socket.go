package bringup

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
)

// backlog of connections that wait for a daemon to start.
const backlog = 128

// ensureDir makes a directory with exactly this mode and owner. Its parent must
// be root's. One that belongs to an owner of an earlier time, whose daemons do
// not run any more, is removed first.
func ensureDir(path string, mode fs.FileMode, uid, gid int) error {
	if err := checkDir(path, uid); err == nil {
		return os.Chmod(path, mode)
	} else if !errors.Is(err, fs.ErrNotExist) {
		if err := os.RemoveAll(path); err != nil {
			return fmt.Errorf("remove what another owner has left: %w", err)
		}
	}
	if err := os.Mkdir(path, 0o700); err != nil {
		return fmt.Errorf("make runtime directory: %w", err)
	}
	if err := os.Lchown(path, uid, gid); err != nil {
		return fmt.Errorf("give runtime directory to its owner: %w", err)
	}
	// Mkdir obeys the umask.
	if err := os.Chmod(path, mode); err != nil {
		return fmt.Errorf("open runtime directory: %w", err)
	}
	return nil
}

// checkDir reports why path is not a directory of uid that nobody else writes.
func checkDir(path string, uid int) error {
	info, err := os.Lstat(path)
	if err != nil {
		return err
	}
	st := info.Sys().(*syscall.Stat_t)
	if !info.IsDir() || int(st.Uid) != uid || info.Mode().Perm()&0o022 != 0 {
		return fmt.Errorf("%s: want a directory of user %d that nobody else can write, found %s of user %d", path, uid, info.Mode(), st.Uid)
	}
	return nil
}

// listen binds a listening unix socket with mode 0600 that belongs to who from
// the first moment on. A stale socket at path is removed.
func listen(kind int, path string, who identity) (*os.File, error) {
	fd, err := unix.Socket(unix.AF_UNIX, kind|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("make socket: %w", err)
	}
	sock := os.NewFile(uintptr(fd), filepath.Base(path))
	// On Linux, bind gives the file the mode that the socket has.
	if err := unix.Fchmod(fd, 0o600); err != nil {
		sock.Close()
		return nil, fmt.Errorf("bind %s: %w", path, err)
	}
	err = actAs(who, func() error {
		if err := unix.Unlink(path); err != nil && err != unix.ENOENT {
			return fmt.Errorf("remove stale socket: %w", err)
		}
		return unix.Bind(fd, &unix.SockaddrUnix{Name: path})
	})
	if err == nil {
		err = unix.Listen(fd, backlog)
	}
	if err != nil {
		sock.Close()
		return nil, fmt.Errorf("bind %s: %w", path, err)
	}
	return sock, nil
}

// listens reports whether somebody listens at path. He is asked as the owner of
// the socket, who may: a helper tells when somebody else comes.
func listens(kind int, path string) bool {
	info, err := os.Lstat(path)
	if err != nil {
		return false
	}
	st := info.Sys().(*syscall.Stat_t)
	fd, err := unix.Socket(unix.AF_UNIX, kind|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	connected := make(chan error, 1)
	go func() {
		// Never unlocked: the thread ends with the goroutine, and whom it was with
		// it. What the peer is told is whom the thread is when it connects.
		runtime.LockOSThread()
		if err := becomeOnThread(int(st.Uid), int(st.Gid)); err != nil {
			connected <- err
			return
		}
		connected <- unix.Connect(fd, &unix.SockaddrUnix{Name: path})
	}()
	err = <-connected
	return err == nil || err == unix.EAGAIN // whose queue is full
}

// becomeOnThread makes the thread's effective user and group another's. The calls
// of package unix would do so for all threads.
func becomeOnThread(uid, gid int) error {
	const keep = ^uintptr(0)
	if _, _, errno := unix.RawSyscall(unix.SYS_SETRESGID, keep, uintptr(gid), keep); errno != 0 {
		return errno
	}
	if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, keep, uintptr(uid), keep); errno != 0 {
		return errno
	}
	return nil
}

// openLog opens a log for appending with the rights of who.
func openLog(path string, who identity) (*os.File, error) {
	var fd int
	err := actAs(who, func() (err error) {
		const flags = unix.O_WRONLY | unix.O_APPEND | unix.O_CREAT | unix.O_NOFOLLOW | unix.O_NONBLOCK | unix.O_CLOEXEC
		fd, err = unix.Open(path, flags, 0o600)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("open log %s: %w", path, err)
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFREG {
		unix.Close(fd)
		return nil, fmt.Errorf("open log %s: not a regular file", path)
	}
	return os.NewFile(uintptr(fd), path), nil
}

// actAs runs do with the file system rights of who, and of nobody else: fsuid
// and fsgid belong to the thread, and root's override of permissions goes with
// them.
func actAs(who identity, do func() error) error {
	if who == root {
		return do()
	}
	done := make(chan error, 1)
	go func() {
		// Never unlocked: the thread ends with the goroutine, and its rights
		// with it.
		runtime.LockOSThread()
		done <- asUser(who, do)
	}()
	return <-done
}

func asUser(who identity, do func() error) error {
	if err := unix.Setfsgid(who.gid); err != nil {
		return fmt.Errorf("take group %d: %w", who.gid, err)
	}
	if err := unix.Setfsuid(who.uid); err != nil {
		return fmt.Errorf("take user %d: %w", who.uid, err)
	}
	// Both calls tell nothing by themselves.
	if uid, err := unix.SetfsuidRetUid(-1); err != nil || uid != who.uid {
		return fmt.Errorf("take user %d: still %d", who.uid, uid)
	}
	if gid, err := unix.SetfsgidRetGid(-1); err != nil || gid != who.gid {
		return fmt.Errorf("take group %d: still %d", who.gid, gid)
	}
	return do()
}
