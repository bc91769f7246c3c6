package image

import (
	"encoding/json"
	"fmt"
	"path"
	"regexp"
	"slices"
	"sync"

	"github.com/opencontainers/go-digest"
)

// savedImage is an element of the manifest.json that "docker save" writes.
type savedImage struct {
	Config   string
	RepoTags []string
	Layers   []string
}

// hexName finds the digest in the names that docker gives to configurations and blobs.
var hexName = sync.OnceValue(func() *regexp.Regexp {
	return regexp.MustCompile(`^(?:blobs/sha256/)?([0-9a-f]{64})(?:\.json|\.tar)?$`)
})

// openDocker finds the image in a "docker save" archive.
func openDocker(p parts, opts Options) (*picture, error) {
	data, err := read(p, "manifest.json", opts.Limits.Metadata)
	if err != nil {
		return nil, err
	}
	var list []savedImage
	if err := json.Unmarshal(data, &list); err != nil {
		return nil, fmt.Errorf("manifest.json: %w: %w", ErrCorrupt, err)
	}
	if opts.Ref != "" {
		list = slices.DeleteFunc(list, func(s savedImage) bool { return !slices.Contains(s.RepoTags, opts.Ref) })
		if len(list) == 0 {
			return nil, fmt.Errorf("image %q: %w", opts.Ref, ErrMissing)
		}
	}
	switch len(list) {
	case 0:
		return nil, fmt.Errorf("manifest.json: %w", ErrNoLayers)
	case 1:
	default:
		return nil, fmt.Errorf("manifest.json: %w: %d", ErrAmbiguous, len(list))
	}
	saved := list[0]
	config, err := read(p, path.Clean(saved.Config), opts.Limits.Metadata)
	if err != nil {
		return nil, err
	}
	if m := hexName().FindStringSubmatch(path.Clean(saved.Config)); m != nil && digest.FromBytes(config).Encoded() != m[1] {
		return nil, fmt.Errorf("configuration %s: %w", saved.Config, ErrDigest)
	}
	pic := &picture{format: "docker", parts: p}
	for _, name := range saved.Layers {
		name = path.Clean(name)
		ref := layerRef{name: name, size: -1}
		if m := hexName().FindStringSubmatch(name); m != nil && path.Dir(name) == "blobs/sha256" {
			ref.blob = digest.NewDigestFromEncoded(digest.SHA256, m[1])
		}
		pic.layers = append(pic.layers, ref)
	}
	return pic, pic.setConfig(config, opts.Limits)
}
