package ext4

import "bytes"

// content is the regular file that is being written.
type content struct {
	ino     uint32 // 0: none
	left    int64  // bytes still to come
	block   uint32 // the next logical block
	partial []byte // bytes of a block that is not complete
}

func (c *content) begin(ino uint32, size int64) {
	c.ino, c.left, c.block, c.partial = ino, size, 0, c.partial[:0]
}

var zeroBlock [blockSize]byte

// Write adds to the content of the regular file that was created last. Blocks of zeroes
// become holes.
func (w *Writer) Write(p []byte) (int, error) {
	c := &w.open
	if c.ino == 0 || int64(len(p)) > c.left {
		return 0, ErrSize
	}
	in, n := w.tree.inodes.at(c.ino), len(p)
	c.left -= int64(n)
	in.size += int64(n)
	if len(c.partial) > 0 {
		k := min(blockSize-len(c.partial), len(p))
		c.partial = append(c.partial, p[:k]...)
		p = p[k:]
		if len(c.partial) == blockSize {
			if err := w.blocks(in, c.partial); err != nil {
				return 0, err
			}
			c.partial = c.partial[:0]
		}
	}
	whole := len(p) &^ (blockSize - 1)
	if err := w.blocks(in, p[:whole]); err != nil {
		return 0, err
	}
	c.partial = append(c.partial, p[whole:]...)
	return n, nil
}

// blocks stores whole blocks of content, and leaves out those of zeroes.
func (w *Writer) blocks(in *inode, p []byte) error {
	for len(p) > 0 {
		zero := bytes.Equal(p[:blockSize], zeroBlock[:])
		n := blockSize
		for n < len(p) && bytes.Equal(p[n:n+blockSize], zeroBlock[:]) == zero {
			n += blockSize
		}
		if zero {
			w.open.block += uint32(n / blockSize)
		} else if err := w.store(in, p[:n]); err != nil {
			return err
		}
		p = p[n:]
	}
	return nil
}

// store allocates and writes whole blocks.
func (w *Writer) store(in *inode, p []byte) error {
	for len(p) > 0 {
		s, err := w.alloc.take(uint32(len(p) / blockSize))
		if err != nil {
			return err
		}
		n := int(s.count) * blockSize
		if err := w.out.write(s.start, p[:n]); err != nil {
			return err
		}
		w.appendExtent(in, w.open.block, s)
		w.open.block += s.count
		p = p[n:]
	}
	return nil
}

// close ends the regular file that is being written.
func (w *Writer) close() error {
	c := &w.open
	if c.ino == 0 {
		return nil
	}
	in := w.tree.inodes.at(c.ino)
	if c.left != 0 {
		return ErrSize
	}
	c.ino = 0
	if len(c.partial) == 0 {
		return nil
	}
	last := append(c.partial, zeroBlock[len(c.partial):]...)
	c.partial = last[:0]
	return w.blocks(in, last)
}
