package image

import (
	"cmp"
	"encoding/json"
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"
	"sync"
)

// manifestFile is where a "docker save" archive lists its images.
const manifestFile = "manifest.json"

// savedImage is an element of the manifest.json that "docker save" writes.
type savedImage struct {
	Config   string
	RepoTags []string
	Layers   []string
}

// hexName finds the digest in the names that docker gives to configurations and blobs.
var hexName = sync.OnceValue(func() *regexp.Regexp {
	return regexp.MustCompile(`^(?:blobs/sha256/|sha256:)?([0-9a-f]{64})(?:\.json|\.tar)?$`)
})

// imageID is the digest by which docker knows an image; empty if the name of the
// configuration does not tell it.
func imageID(s savedImage) string {
	m := hexName().FindStringSubmatch(partPath(s.Config))
	if m == nil {
		return ""
	}
	return digestPrefix + m[1]
}

// openDocker finds the image in a "docker save" archive.
func openDocker(p parts, opts Options) (*picture, error) {
	data, err := read(p, manifestFile, opts.Limits.Metadata)
	if err != nil {
		return nil, err
	}
	var list []savedImage
	if err := json.Unmarshal(data, &list); err != nil {
		return nil, fmt.Errorf("manifest.json: %w: %w", ErrCorrupt, err)
	}
	var fit []savedImage
	var names []string
	for _, s := range list {
		id := imageID(s)
		names = append(names, cmp.Or(strings.Join(s.RepoTags, ", "), id, s.Config))
		if opts.Ref == "" || opts.Ref == id || slices.ContainsFunc(s.RepoTags, func(tag string) bool { return isRef(tag, opts.Ref) }) {
			fit = append(fit, s)
		}
	}
	switch {
	case len(list) == 0:
		return nil, fmt.Errorf("manifest.json: %w", ErrNoLayers)
	case len(fit) == 0:
		return nil, fmt.Errorf("image %q: %w: there is %s", opts.Ref, ErrMissing, listed(names))
	case len(fit) > 1:
		return nil, fmt.Errorf("%w: %s", ErrAmbiguous, listed(names))
	}
	saved := fit[0]
	configName := partPath(saved.Config)
	config, err := read(p, configName, opts.Limits.Metadata)
	if err != nil {
		return nil, err
	}
	if id := imageID(saved); id != "" && string(digestOf(config)) != id {
		return nil, fmt.Errorf("configuration %s: %w", saved.Config, ErrDigest)
	}
	pic := &picture{format: "docker", parts: p}
	for _, name := range saved.Layers {
		name = partPath(name)
		ref := layerRef{name: name, size: -1}
		if m := hexName().FindStringSubmatch(name); m != nil && path.Dir(name) == "blobs/sha256" {
			ref.blob = digest(digestPrefix + m[1])
		}
		pic.layers = append(pic.layers, ref)
	}
	return pic, pic.setConfig(config, opts.Limits)
}
