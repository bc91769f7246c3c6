package catalog

import (
	"banger/personas/api"
	"banger/store"
	"banger/store/kernel"
)

// Image is an image as it is recorded.
type Image struct {
	api.Image
	Seal store.Seal `json:"seal"` // of its file
}

// Label implements [Item].
func (i Image) Label() (name, digest string, isDefault bool) { return i.Name, i.Digest, i.Default }

// WithDefault implements [Item].
func (i Image) WithDefault(on bool) Image {
	i.Default = on
	return i
}

// Kernel is a kernel as it is recorded.
type Kernel struct {
	api.Kernel
	Info kernel.Info `json:"info"`

	// The digests of the files that a VMM boots, in hex; the latter is empty
	// where there is no such file.
	VmlinuxSHA256 string `json:"vmlinux_sha256"`
	BzImageSHA256 string `json:"bzimage_sha256,omitempty"`
}

// Label implements [Item].
func (k Kernel) Label() (name, digest string, isDefault bool) { return k.Name, k.Digest, k.Default }

// WithDefault implements [Item].
func (k Kernel) WithDefault(on bool) Kernel {
	k.Default = on
	return k
}
