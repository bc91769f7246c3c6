package ext4

import (
	"errors"
	"io/fs"
)

// NextLayer begins a layer: what Create and Link name from now on belongs to it.
func (w *Writer) NextLayer() {
	w.layer++
	w.hidden = map[uint32]bool{}
}

// Remove takes away what earlier layers put under name, a directory with all that is in it.
// What the present layer has named stays, with the directories that lead to it. It is no
// error if there is nothing.
func (w *Writer) Remove(name string) error {
	return w.hide("remove", name, false)
}

// Clear takes away what earlier layers put into the directory name, as Remove does, but
// leaves the directory.
func (w *Writer) Clear(name string) error {
	return w.hide("clear", name, true)
}

func (w *Writer) hide(op, name string, keep bool) error {
	if err := w.close(); err != nil {
		return wrap(op, name, err)
	}
	n, err := w.find(name)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, ErrNotDir) {
		return nil
	}
	if err != nil {
		return wrap(op, name, err)
	}
	w.hideOlder(n, keep || n == rootNode)
	return nil
}

// hideOlder removes the tree at top, but for what the present layer has named. It walks with
// a list instead of the stack, as the depth is the archive's to choose. No directory is
// walked twice in a layer, as nothing older can come into it.
func (w *Writer) hideOlder(top uint32, keep bool) {
	order := w.subtree(top, w.hidden)
	for i := len(order) - 1; i >= 0; i-- { // children before parents
		n := order[i]
		if w.tree.inodeOf(n).mode&modeType == modeDir {
			w.hidden[n] = true
		}
		if nd := w.tree.nodes.at(n); nd.layer == w.layer {
			continue
		}
		if n == top && keep || w.isLostFound(n) {
			continue
		}
		if in := w.tree.inodeOf(n); in.mode&modeType == modeDir && in.first != 0 {
			continue
		}
		w.drop(n)
	}
	w.lastAt = 0
}

// removeTree removes the tree at top.
func (w *Writer) removeTree(top uint32) {
	order := w.subtree(top, nil)
	for i := len(order) - 1; i >= 0; i-- {
		w.drop(order[i])
	}
	w.lastAt = 0
}

// subtree lists top and all below, parents before children, but for what is below the
// directories in closed.
func (w *Writer) subtree(top uint32, closed map[uint32]bool) []uint32 {
	list := []uint32{top}
	for i := 0; i < len(list); i++ {
		in := w.tree.inodeOf(list[i])
		if in.mode&modeType != modeDir || closed[list[i]] {
			continue
		}
		for n := in.first; n != 0; n = w.tree.nodes.at(n).next {
			list = append(list, n)
		}
	}
	return list
}

func (w *Writer) isLostFound(n uint32) bool {
	return w.tree.nodes.at(n).inode == inoLostFound
}

// drop removes one name, and its inode with the last name. A directory must be empty.
func (w *Writer) drop(n uint32) {
	ino, parent := w.tree.nodes.at(n).inode, w.tree.nodes.at(n).parent
	in := w.tree.inodes.at(ino)
	w.tree.detach(n)
	if in.mode&modeType == modeDir {
		w.tree.inodeOf(parent).links--
		in.links = 0
	} else if in.links--; in.links > 0 {
		return
	}
	w.releaseBlocks(in)
	delete(w.times, ino)
	*in = inode{}
}

// releaseBlocks gives the blocks of an inode back.
func (w *Writer) releaseBlocks(in *inode) {
	switch {
	case in.mode&modeType == modeRegular && in.first != 0:
		for i := in.first; i <= in.last; i++ {
			e := w.extents.at(i)
			w.free.add(span{e.start, e.count})
		}
	case in.mode&modeType == modeSymlink && in.size >= fastSymlink:
		w.free.add(span{in.last, 1})
	}
	w.dropAttrs(in)
}
