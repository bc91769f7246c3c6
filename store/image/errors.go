package image

import (
	"errors"
	"fmt"
)

// The errors that a caller may act on.
var (
	// ErrUnknownFormat says that the input is none of the formats known here.
	ErrUnknownFormat = errors.New("unknown format")
	// ErrDirectory says that a directory is no OCI layout. It is ErrUnknownFormat too.
	ErrDirectory = fmt.Errorf("%w: directory", ErrUnknownFormat)
	// ErrKernel says that the input is a package or a program, such as kernels come as. It
	// is ErrUnknownFormat too.
	ErrKernel = fmt.Errorf("%w: no image", ErrUnknownFormat)
	// ErrCorrupt says that the input breaks the rules of its format, or ends too early.
	ErrCorrupt = errors.New("corrupt input")
	// ErrDigest says that content does not have the digest that names it.
	ErrDigest = errors.New("digest mismatch")
	// ErrMissing says that the input names a part that it does not have.
	ErrMissing = errors.New("missing from input")
	// ErrTooBig says that the input goes beyond Limits.
	ErrTooBig = errors.New("too big")
	// ErrNoLayers says that the image has no layer, or the tar no entry.
	ErrNoLayers = errors.New("nothing in the image")
	// ErrEmpty says that the input has no byte. It is ErrNoLayers too.
	ErrEmpty = fmt.Errorf("%w: empty input", ErrNoLayers)
	// ErrArchive says that what was read as a root file system is a container archive.
	ErrArchive = errors.New("container archive that does not begin like one")
	// ErrAmbiguous says that the input holds several images and Options do not tell which.
	ErrAmbiguous = errors.New("several images")
)
