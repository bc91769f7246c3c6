package jail

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// Reopen returns another descriptor for the file f, of no use but for a Spec,
// whose mount is one of the caller's mount namespace: a file that was opened in
// another one, by a service that has its own, cannot be mounted into a jail. The
// kernel's name for the file leads to it, and is believed only if it leads to the
// same inode.
func Reopen(f *os.File) (*os.File, error) {
	name, err := os.Readlink(fdPath(f))
	if err != nil {
		return nil, fmt.Errorf("reopen file: %v", err)
	}
	fd, err := unix.Openat2(unix.AT_FDCWD, name, &unix.OpenHow{
		Flags: unix.O_PATH | unix.O_NOFOLLOW | unix.O_CLOEXEC, Resolve: unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS,
	})
	if err != nil {
		return nil, fmt.Errorf("reopen %s: %w", name, err)
	}
	again := os.NewFile(uintptr(fd), name)
	var want, got unix.Stat_t
	if err = unix.Fstat(int(f.Fd()), &want); err == nil {
		err = unix.Fstat(fd, &got)
	}
	if err != nil || want.Dev != got.Dev || want.Ino != got.Ino || got.Ino == 0 {
		again.Close()
		return nil, fmt.Errorf("reopen %s: it is another file by now", name)
	}
	return again, nil
}
