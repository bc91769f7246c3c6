package image

import "os"

// Limits bound what an input may ask for. A zero field means the default.
type Limits struct {
	// Bytes is the most content that all entries together may have, holes and files that
	// a higher layer replaces included. Default 64 GiB.
	Bytes int64
	// Entries is the most entries that all layers together may have, and the most files
	// and directories that they may make, parents without an entry included. Default 4 Mi.
	Entries int
	// Ratio is how many bytes may come out of one compressed byte, once RatioFree bytes
	// have come out. Default 100: distributions pack to a third, while gzip can do a
	// thousandth and zstd a thirty-thousandth of what says nothing.
	Ratio int64
	// RatioFree is how many bytes may come out whatever the ratio. Default 8 GiB: an
	// image may have a swap file or an empty database of some GiB, which pack to next
	// to nothing. Blocks of zeroes cost time, but no room.
	RatioFree int64
	// Depth is the most directories on the way to an entry. Default 256.
	Depth int
	// Path is the most bytes of a whole name. Default 4096.
	Path int
	// Layers is the most layers of an image. Default 512.
	Layers int
	// Metadata is the most bytes of one manifest, index or configuration. Default 4 MiB.
	Metadata int64
}

func (l Limits) withDefaults() Limits {
	l.Bytes = orDefault(l.Bytes, 64<<30)
	l.Entries = orDefault(l.Entries, 4<<20)
	l.Ratio = orDefault(l.Ratio, 100)
	l.RatioFree = orDefault(l.RatioFree, 8<<30)
	l.Depth = orDefault(l.Depth, 256)
	l.Path = orDefault(l.Path, 4096)
	l.Layers = orDefault(l.Layers, 512)
	l.Metadata = orDefault(l.Metadata, 4<<20)
	return l
}

// stream is the most bytes that one tar may have, headers and padding included: an endless
// one must end too.
func (l Limits) stream() int64 { return l.Bytes + l.Bytes/2 + 64<<20 }

func orDefault[T int | int64](v, def T) T {
	if v == 0 {
		return def
	}
	return v
}

// Options of an import. The zero value is ready to use.
type Options struct {
	// Name is what errors call the source, if not empty.
	Name string
	// SizeBytes is the size of the file system. Zero means as large as the content needs,
	// with FreeBytes to spare.
	SizeBytes int64
	// FreeBytes is how much is free when SizeBytes is zero. Zero means 64 MiB.
	FreeBytes int64
	// Label is the volume label, at most 16 bytes.
	Label string
	// Ref names one of several images in an archive ("debian:12"), or is the digest of one
	// without a name. Empty means that there must be only one.
	Ref string
	// Architecture is the wanted one, where an index has several. Empty means that of this
	// program (GOARCH).
	Architecture string
	// Limits bound the input.
	Limits Limits
	// Finished, if not nil, is called with the image while it goes to the host's disk. It
	// must not write it. Its error becomes that of the import.
	Finished func(*os.File) error
	// Progress, if not nil, is called with the number of bytes read from the source so far,
	// often, from another goroutine than Import's.
	Progress func(bytesRead int64)
}

// Info tells what was imported.
type Info struct {
	// Format is "rootfs", "docker" or "oci".
	Format string
	// Digest identifies the content ("sha256:..."): of a container image the digest of its
	// configuration, which names all layers (what docker calls the image ID); of a root
	// file system the digest of the uncompressed tar.
	Digest string
	// SizeBytes is the size of the file system, FreeBytes what is free in it.
	SizeBytes, FreeBytes int64
	// ContentBytes is the sum of the sizes of all regular files in the input.
	ContentBytes int64
	// Entries is the number of entries in the input, of all layers.
	Entries int
	// Layers is the number of layers, 1 for a root file system.
	Layers int
	// Dropped is the number of attributes that ext4 has no place for and the kernel
	// would not have accepted either.
	Dropped int
	// UUID of the file system.
	UUID [16]byte
	// Init is the path of an init system, empty if there is none.
	Init string
	// OSName is PRETTY_NAME of os-release, empty if there is none. It is untrusted text.
	OSName string
	// Config is how a container image wants to be run. All of it is untrusted text.
	Config Config
}

// Config is the part of a container image's configuration that is of use here.
type Config struct {
	// Env is the environment, as NAME=VALUE. What the image has there and is not of that
	// form is left out.
	Env []string
	// Entrypoint and Cmd are the command to run, one after the other.
	Entrypoint, Cmd []string
	// User is the user to run as, by name or number, with or without group.
	User string
	// WorkingDir is where the command runs: absolute, or empty.
	WorkingDir string
	// StopSignal asks the command to end.
	StopSignal string
	// ExposedPorts are the ports that are meant to be reached ("80/tcp"), sorted.
	ExposedPorts []string
	// Labels are free.
	Labels map[string]string
	// Architecture and OS are what the image was made for, as Go names them.
	Architecture, OS string
}
