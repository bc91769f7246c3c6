// Package image turns what people have of a root file system (a tar, a "docker save"
// archive, an OCI layout) into an ext4 image.
//
// The input is hostile: an archive decides the content of the image and nothing else. No
// entry ever meets the host's file system; paths are only names in the tree that package
// ext4 keeps. Every size, count and depth is bounded by Limits, digests are checked after
// the last byte, and the image appears under its name only when all of it is right and
// synced.
//
// A tar with a root file system is read once, from start to end, and may come from a pipe.
// Container archives need their parts out of order: out of a regular file they are read in
// place, out of a pipe they are first spooled to an unnamed file beside the destination.
//
// What a tar is, its first entry tells: a stream cannot be read twice. A container archive
// whose first entry tells nothing is noticed at its end, and refused.
//
// Layers are applied from the lowest to the highest, as a container engine does: whiteouts
// hide what lower layers have, parents that are symbolic links are followed inside the
// image, and an entry replaces what has its name unless both are directories.
package image
