package tree

import (
	"errors"
	"strings"

	"golang.org/x/sys/unix"
)

const (
	maxXattrs = 256
	// xattrBytes bounds the attributes of one file, so that an entry with its
	// base64 fits into a message.
	xattrBytes = 256 << 10
)

// carried reports whether a copy carries the attribute at all: those that mean
// the same on another machine.
func carried(name string) bool {
	switch name {
	case "security.capability", "system.posix_acl_access", "system.posix_acl_default":
		return true
	}
	return strings.HasPrefix(name, "user.")
}

// readXattrs returns the attributes of fd that a copy carries. A file system
// without attributes has none.
func readXattrs(fd int) []xattr {
	size, err := unix.Flistxattr(fd, nil)
	if err != nil || size == 0 {
		return nil
	}
	list := make([]byte, size)
	if size, err = unix.Flistxattr(fd, list); err != nil {
		return nil
	}
	var out []xattr
	total := 0
	for name := range strings.SplitSeq(strings.Trim(string(list[:size]), "\x00"), "\x00") {
		if !carried(name) || len(out) == maxXattrs {
			continue
		}
		value := make([]byte, 64<<10)
		n, err := unix.Fgetxattr(fd, name, value)
		if err != nil || total+n > xattrBytes {
			continue
		}
		total += n
		out = append(out, xattr{Name: name, Value: value[:n]})
	}
	return out
}

// writeXattrs sets attributes on fd. A sender that is not trusted sets user
// attributes only. A file system that has none of the kind loses them, as cp does.
func writeXattrs(fd int, list []xattr, trusted bool) error {
	for _, x := range list {
		if !carried(x.Name) || !trusted && !strings.HasPrefix(x.Name, "user.") {
			continue
		}
		err := unix.Fsetxattr(fd, x.Name, x.Value, 0)
		if err != nil && !errors.Is(err, unix.EOPNOTSUPP) && !errors.Is(err, unix.EPERM) {
			return err
		}
	}
	return nil
}
