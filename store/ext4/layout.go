package ext4

import (
	"hash/crc32"
)

// Sizes that never vary. All of them are in bytes or in blocks of blockSize bytes.
const (
	blockSize      = 4096
	blocksPerGroup = 8 * blockSize // as many as one bitmap block has bits
	inodeSize      = 256
	descSize       = 64
	descsPerBlock  = blockSize / descSize
	inodesPerBlock = blockSize / inodeSize
	maxInodeGroup  = 8 * blockSize // inodes per group that one bitmap block can describe

	// maxDescBlocks is the largest descriptor area. It lets the kernel grow a file system to
	// 2 TiB before it must change the layout.
	maxDescBlocks = 256
	maxGroups     = maxDescBlocks * descsPerBlock
	maxBlocks     = maxGroups * blocksPerGroup

	// minTailBlocks is the smallest last group, after its head. mke2fs has the same rule.
	minTailBlocks = 64
)

// Inodes with a fixed number.
const (
	inoRoot      = 2
	inoResize    = 7
	inoJournal   = 8
	inoLostFound = 11 // the first that is not reserved, where mke2fs has it too
)

// isBackup tells whether group g holds a copy of the superblock and descriptors (sparse_super).
func isBackup(g uint32) bool {
	if g == 1 {
		return true
	}
	for _, base := range []uint32{3, 5, 7} {
		p := base
		for p < g {
			p *= base
		}
		if p == g {
			return true
		}
	}
	return false
}

// backups lists the groups below n that hold copies, in ascending order.
func backups(n uint32) []uint32 {
	var list []uint32
	for g := uint32(1); g < n; g++ {
		if isBackup(g) {
			list = append(list, g)
		}
	}
	return list
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// checksumSeed starts every metadata checksum. It is stored in the superblock
// (metadata_csum_seed), so that the UUID can be chosen after metadata is written.
const checksumSeed uint32 = 0x62616e67

// checksum continues crc32c as the kernel does: without inversion at start and end.
func checksum(crc uint32, p []byte) uint32 {
	return ^crc32.Update(^crc, castagnoli, p)
}

// ceilDiv is a/b, rounded up.
func ceilDiv(a, b uint64) uint64 { return (a + b - 1) / b }

// roundUp is the smallest multiple of m that is not below n.
func roundUp(n, m uint32) uint32 { return (n + m - 1) / m * m }
