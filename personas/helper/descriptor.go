package helper

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"banger/ops"
)

// fileSystems are those whose files may become disks: local, and never able to
// block an open for ever as FUSE and network file systems do. An overlay
// must be the root: it is there for hosts that are containers themselves.
var fileSystems = map[int64]bool{
	unix.EXT4_SUPER_MAGIC:      true,
	unix.XFS_SUPER_MAGIC:       true,
	unix.BTRFS_SUPER_MAGIC:     true,
	unix.F2FS_SUPER_MAGIC:      true,
	unix.TMPFS_MAGIC:           true,
	unix.OVERLAYFS_SUPER_MAGIC: true,
	0xca451a4e:                 true, // bcachefs
	0x2fc12fc1:                 true, // zfs
}

// inode identifies a file however it was opened.
type inode struct {
	Dev uint64 `json:"dev"`
	Ino uint64 `json:"ino"`
}

// file is a descriptor that was checked, and is used as that descriptor.
type file struct {
	*os.File
	inode    inode
	readOnly bool
}

// refuse is the error for a descriptor that cannot be used.
func refuse(format string, args ...any) error {
	return &ops.Error{Code: ops.Invalid, Message: "descriptor: " + fmt.Sprintf(format, args...)}
}

// vet refuses every descriptor that is not a plain file on a file system that we trust
// to answer. Nothing but its type is asked for before.
func vet(fd int) error {
	var fs unix.Statfs_t
	if err := unix.Fstatfs(fd, &fs); err != nil {
		return refuse("find file system: %v", err)
	}
	if !fileSystems[fs.Type] {
		return refuse("on a file system of type %#x, want ext4, xfs, btrfs, f2fs, bcachefs, zfs, overlay or tmpfs", fs.Type)
	}
	if fs.Type == unix.OVERLAYFS_SUPER_MAGIC && !onRoot(fd) {
		return refuse("on an overlay that is not this host's root")
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return refuse("stat: %v", err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return refuse("not a regular file")
	}
	return nil
}

// checkFile refuses what vet refuses, and every file that is not the owner's, or has
// another name.
func checkFile(f *os.File, ownerUID int) (file, error) {
	fd := int(f.Fd())
	if err := vet(fd); err != nil {
		return file{}, err
	}
	flags, err := unix.FcntlInt(f.Fd(), unix.F_GETFL, 0)
	if err != nil {
		return file{}, refuse("read flags: %v", err)
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return file{}, refuse("stat: %v", err)
	}
	mode := flags & unix.O_ACCMODE
	switch {
	case flags&unix.O_PATH != 0:
		return file{}, refuse("opened with O_PATH, want it opened for reading")
	case flags&unix.O_APPEND != 0:
		return file{}, refuse("opened for appending")
	case mode != unix.O_RDONLY && mode != unix.O_RDWR:
		return file{}, refuse("opened for writing alone")
	case int(st.Uid) != ownerUID:
		return file{}, refuse("belongs to uid %d, want %d", st.Uid, ownerUID)
	case st.Nlink != 1:
		return file{}, refuse("has %d names, want one", st.Nlink)
	}
	return file{File: f, inode: inode{st.Dev, st.Ino}, readOnly: mode == unix.O_RDONLY}, nil
}

// onRoot reports whether a file is on the file system of the root, without a question
// to any below it: anybody can mount, in a user namespace of his own, an overlay over
// FUSE, and who asks that for a size waits for ever, not even to be killed.
func onRoot(fd int) bool {
	var file, root unix.Statx_t
	err := unix.Statx(fd, "", unix.AT_EMPTY_PATH|unix.AT_STATX_DONT_SYNC, unix.STATX_INO, &file)
	if err == nil {
		err = unix.Statx(unix.AT_FDCWD, "/", 0, unix.STATX_INO, &root)
	}
	return err == nil && file.Dev_major == root.Dev_major && file.Dev_minor == root.Dev_minor
}

// checkDisk is checkFile for a disk, which must have whole sectors, and be
// readable by all where it is shared between VMs.
func checkDisk(f *os.File, ownerUID int) (file, error) {
	d, err := checkFile(f, ownerUID)
	if err != nil {
		return d, err
	}
	info, err := f.Stat()
	if err != nil {
		return d, fmt.Errorf("stat disk: %w", err)
	}
	if info.Size() == 0 || info.Size()%512 != 0 {
		return d, &ops.Error{Code: ops.Invalid, Message: fmt.Sprintf("disk of %d bytes: want whole sectors of 512", info.Size())}
	}
	if d.readOnly && info.Mode().Perm()&0o004 == 0 {
		return d, &ops.Error{Code: ops.Invalid, Message: "read-only disk: its mode must let others read"}
	}
	return d, nil
}

// admit lets the VM's group, which nobody else is in, open a disk for writing.
// The owner keeps the file.
func (f *file) admit(gid int) error {
	if f.readOnly {
		return nil
	}
	if err := f.Chown(-1, gid); err != nil {
		return fmt.Errorf("give disk to group %d: %w", gid, err)
	}
	if err := f.Chmod(0o660); err != nil {
		return fmt.Errorf("give disk to group %d: %w", gid, err)
	}
	return nil
}
