package image

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"hash"
	"strings"
)

// What is read of the OCI image specification 1.1. The types of its own module say the
// same, which tests hold against these, and compile five regular expressions at every
// start of banger, in each of its roles.

// The media types of the specification, and those that docker gives to the same things.
const (
	typeManifest = "application/vnd.oci.image.manifest.v1+json"
	typeIndex    = "application/vnd.oci.image.index.v1+json"
	typeLayer    = "application/vnd.oci.image.layer.v1.tar"

	dockerManifest     = "application/vnd.docker.distribution.manifest.v2+json"
	dockerManifestList = "application/vnd.docker.distribution.manifest.list.v2+json"
	dockerLayer        = "application/vnd.docker.image.rootfs.diff.tar"
)

// descriptor points to a blob (descriptor.md).
type descriptor struct {
	MediaType   string            `json:"mediaType"`
	Digest      digest            `json:"digest"`
	Size        int64             `json:"size"`
	Annotations map[string]string `json:"annotations"`
	Platform    *platform         `json:"platform"`
}

// platform is what an image is made for.
type platform struct {
	OS           string `json:"os"`
	Architecture string `json:"architecture"`
}

// manifestBlob lists the parts of an image (manifest.md).
type manifestBlob struct {
	MediaType string       `json:"mediaType"`
	Config    descriptor   `json:"config"`
	Layers    []descriptor `json:"layers"`
}

// indexBlob lists manifests, or further indexes (image-index.md).
type indexBlob struct {
	Manifests []descriptor `json:"manifests"`
}

// configBlob is an image's configuration (config.md).
type configBlob struct {
	platform
	Config struct {
		User         string
		ExposedPorts map[string]struct{}
		Env          []string
		Entrypoint   []string
		Cmd          []string
		WorkingDir   string
		Labels       map[string]string
		StopSignal   string
	} `json:"config"`
	RootFS struct {
		DiffIDs []digest `json:"diff_ids"`
	} `json:"rootfs"`
}

// digest is "sha256:" and 64 digits, once it is checked.
type digest string

// digestPrefix names the one algorithm that is computed here.
const digestPrefix = "sha256:"

func digestOf(data []byte) digest {
	sum := sha256.Sum256(data)
	return digest(digestPrefix + hex.EncodeToString(sum[:]))
}

// digestIn is what h, a SHA-256, was given.
func digestIn(h hash.Hash) digest {
	return digest(digestPrefix + hex.EncodeToString(h.Sum(nil)))
}

// check refuses what is not a SHA-256 in small letters.
func (d digest) check() error {
	digits, ok := strings.CutPrefix(string(d), digestPrefix)
	if !ok || len(digits) != hex.EncodedLen(sha256.Size) || strings.Trim(digits, "0123456789abcdef") != "" {
		return fmt.Errorf("%w: digest %q", ErrCorrupt, string(d))
	}
	return nil
}

// blobName is where an OCI layout keeps the blob of a digest that is checked.
func blobName(d digest) string { return "blobs/sha256/" + strings.TrimPrefix(string(d), digestPrefix) }
