package ext4

// FileInfo is what Stat tells of an entry.
type FileInfo struct {
	// Mode has the type and permission bits as the kernel has them.
	Mode uint32
	// Size is the number of bytes of content.
	Size int64
}

// Stat looks at an entry as stat(2) in a chroot would: symbolic links are followed and stay
// within the tree. It fails with fs.ErrNotExist, ErrNotDir, ErrLoop or ErrName.
func (w *Writer) Stat(name string) (FileInfo, error) {
	n, err := w.tree.walk(rootNode, name, notExist)
	if err != nil {
		return FileInfo{}, wrap("stat", name, err)
	}
	in := w.tree.inodeOf(n)
	return FileInfo{Mode: uint32(in.mode), Size: in.size}, nil
}
