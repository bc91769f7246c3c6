package image

import "errors"

// The errors that a caller may act on.
var (
	// ErrUnknownFormat says that the input is none of the formats known here.
	ErrUnknownFormat = errors.New("unknown format")
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
	// ErrAmbiguous says that the input holds several images and Options do not tell which.
	ErrAmbiguous = errors.New("several images")
)
