package ext4

import "errors"

// The errors that a caller may act on. All others come from the image file.
var (
	// ErrNoSpace says that the content does not fit in Options.SizeBytes.
	ErrNoSpace = errors.New("file system is full")
	// ErrTooBig says that an entry is larger than ext4 can hold, or that there are too many.
	ErrTooBig = errors.New("too big for ext4")
	// ErrName says that a name is empty, too long, or has a forbidden byte or component.
	ErrName = errors.New("invalid name")
	// ErrNotDir says that a parent, or lost+found, is something else than a directory.
	ErrNotDir = errors.New("not a directory")
	// ErrLoop says that too many symbolic links were met in one path.
	ErrLoop = errors.New("too many symbolic links")
	// ErrLinks says that a file has more hard links than ext4 allows, or that a directory would be linked.
	ErrLinks = errors.New("hard link not allowed")
	// ErrXattr says that an extended attribute has a name or value that ext4 cannot hold.
	ErrXattr = errors.New("invalid extended attribute")
	// ErrSize says that a file got more bytes than it announced, or fewer.
	ErrSize = errors.New("content differs from announced size")
)
