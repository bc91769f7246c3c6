// Package ext4 writes an ext4 file system image from a stream of entries, without
// root, without a mount and without unpacking anything to the host's file system.
//
// A Writer is told one entry after the other, as they come out of an archive, and
// sends file content straight to the image. Only names, inodes and the map of blocks
// stay in memory, about 130 bytes per entry. What the stream decides only at its end
// (how many inodes there are, how large the file system must be) is placed at the end:
//
//	block 0        1 .. at most 256        behind them
//	+------------+-----------------------+------------------------------------------+
//	| superblock | descriptors + reserve | content, directories, journal, bitmaps,   |
//	|            |                       | inode tables, then free space (a hole)   |
//	+------------+-----------------------+------------------------------------------+
//
// flex_bg allows bitmaps and inode tables to lie anywhere, so groups are only a way of
// counting. The head of every backup group (1 and the powers of 3, 5 and 7) repeats the
// first of these blocks and is left out by the allocator. How large the descriptor area is
// depends on Options.MaxBytes, and not on the size that comes out: so content can be placed
// before that is known, and the kernel can grow the file system online (resize_inode).
//
// The same calls in the same order give the same bytes: no clock, no random numbers.
package ext4
