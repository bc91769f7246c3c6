package image

import (
	"encoding/json"
	"fmt"
	"runtime"
	"slices"
	"strings"
)

// maxIndexDepth bounds indexes in indexes.
const maxIndexDepth = 4

// openOCI finds the image in an OCI layout.
func openOCI(p parts, opts Options) (*picture, error) {
	data, err := read(p, "index.json", opts.Limits.Metadata)
	if err != nil {
		return nil, err
	}
	var index indexBlob
	if err := json.Unmarshal(data, &index); err != nil {
		return nil, fmt.Errorf("index.json: %w: %w", ErrCorrupt, err)
	}
	desc, err := choose(p, index.Manifests, opts, opts.Ref, 0)
	if err != nil {
		return nil, fmt.Errorf("index.json: %w", err)
	}
	data, err = readBlob(p, desc, opts.Limits)
	if err != nil {
		return nil, err
	}
	// A manifest must not be readable as an index too, or two tools see two images in it.
	var m struct {
		manifestBlob
		Manifests json.RawMessage `json:"manifests"`
	}
	if err := json.Unmarshal(data, &m); err != nil || m.Manifests != nil {
		return nil, fmt.Errorf("manifest %s: %w", desc.Digest, ErrCorrupt)
	}
	if m.MediaType != "" && desc.MediaType != "" && m.MediaType != desc.MediaType {
		return nil, fmt.Errorf("manifest %s: %w: type %q is named %q", desc.Digest, ErrCorrupt, m.MediaType, desc.MediaType)
	}
	pic := &picture{format: "oci", parts: p}
	for _, l := range m.Layers {
		if err := checkLayer(l); err != nil {
			return nil, err
		}
		pic.layers = append(pic.layers, layerRef{name: blobName(l.Digest), blob: l.Digest, size: l.Size})
	}
	config, err := readBlob(p, m.Config, opts.Limits)
	if err != nil {
		return nil, err
	}
	return pic, pic.setConfig(config, opts.Limits)
}

// checkLayer refuses what is no layer, or lies elsewhere.
func checkLayer(l descriptor) error {
	if err := l.Digest.check(); err != nil {
		return fmt.Errorf("layer: %w", err)
	}
	switch base, _, _ := strings.Cut(l.MediaType, "+"); {
	case strings.Contains(base, "nondistributable"), strings.Contains(base, "foreign"):
		return fmt.Errorf("layer %s: %w: it has to be fetched from elsewhere", l.Digest, ErrMissing)
	case base != typeLayer && base != dockerLayer && base != dockerLayer+".gzip":
		return fmt.Errorf("layer %s: %w: type %q", l.Digest, ErrUnknownFormat, l.MediaType)
	}
	return nil
}

// choose picks the one manifest that is wanted, through nested indexes.
func choose(p parts, list []descriptor, opts Options, ref string, depth int) (descriptor, error) {
	if depth > maxIndexDepth {
		return descriptor{}, fmt.Errorf("%w: indexes in indexes", ErrTooBig)
	}
	arch := opts.Architecture
	if arch == "" {
		arch = runtime.GOARCH
	}
	var found []descriptor
	var names, foundNames []string
	seen := map[digest]bool{}
	for _, d := range list {
		if !isFor(d, arch) {
			continue
		}
		names = append(names, nameOf(d))
		if ref != "" && !hasRef(d, ref) || seen[d.Digest] {
			continue
		}
		seen[d.Digest] = true
		found, foundNames = append(found, d), append(foundNames, nameOf(d))
	}
	switch {
	case len(list) == 0:
		return descriptor{}, ErrNoLayers
	case len(found) == 0 && len(names) > 0:
		return descriptor{}, fmt.Errorf("image %q for linux/%s: %w: there is %s", ref, arch, ErrMissing, listed(names))
	case len(found) == 0:
		return descriptor{}, fmt.Errorf("image for linux/%s: %w", arch, ErrMissing)
	case len(found) > 1 && depth == 0:
		return descriptor{}, fmt.Errorf("%w: %s", ErrAmbiguous, listed(foundNames))
	case len(found) > 1: // variants of a processor: no reference leads into an index
		return descriptor{}, fmt.Errorf("%w: %d for linux/%s under one name", ErrAmbiguous, len(found), arch)
	}
	d := found[0]
	switch d.MediaType {
	case typeManifest, dockerManifest:
		return d, nil
	case typeIndex, dockerManifestList:
	default:
		return d, fmt.Errorf("%s: %w: type %q", d.Digest, ErrUnknownFormat, d.MediaType)
	}
	data, err := readBlob(p, d, opts.Limits)
	if err != nil {
		return d, err
	}
	var index struct {
		indexBlob
		Layers json.RawMessage `json:"layers"`
	}
	if err := json.Unmarshal(data, &index); err != nil || index.Layers != nil {
		return d, fmt.Errorf("index %s: %w", d.Digest, ErrCorrupt)
	}
	return choose(p, index.Manifests, opts, "", depth+1)
}

// nameKeys are the annotations with an image's name, the full one first.
var nameKeys = []string{"io.containerd.image.name", "org.opencontainers.image.ref.name"}

// hasRef tells whether a descriptor has the given name, in full or as a tag, or digest.
func hasRef(d descriptor, ref string) bool {
	return string(d.Digest) == ref || slices.ContainsFunc(nameKeys, func(key string) bool { return isRef(d.Annotations[key], ref) })
}

// isRef tells whether ref means name, which may say more of where the image is from.
func isRef(name, ref string) bool {
	return name == ref || name != "" && strings.HasSuffix(name, "/"+ref)
}

// nameOf is the best name of a descriptor, or its digest.
func nameOf(d descriptor) string {
	for _, key := range nameKeys {
		if name := d.Annotations[key]; name != "" {
			return name
		}
	}
	return string(d.Digest)
}

// listed are names for an error, which comes from the archive and must not be endless.
func listed(names []string) string {
	const most, longest = 16, 512
	var rest string
	if len(names) > most {
		names, rest = names[:most], fmt.Sprintf(" and %d more", len(names)-most)
	}
	short := make([]string, len(names))
	for i, name := range names {
		short[i] = fmt.Sprintf("%.*s", longest, name)
	}
	return strings.Join(short, ", ") + rest
}

// isFor tells whether a descriptor is an image for this platform. Attestations of buildkit
// are manifests too, for "unknown".
func isFor(d descriptor, arch string) bool {
	return d.Platform == nil || d.Platform.OS == "linux" && d.Platform.Architecture == arch
}

// readBlob returns a blob whose size and digest are right.
func readBlob(p parts, d descriptor, limits Limits) ([]byte, error) {
	if err := d.Digest.check(); err != nil {
		return nil, err
	}
	if d.Size < 0 {
		return nil, fmt.Errorf("blob %s: %w: size %d", d.Digest, ErrCorrupt, d.Size)
	}
	data, err := read(p, blobName(d.Digest), limits.Metadata)
	if err != nil {
		return nil, err
	}
	if int64(len(data)) != d.Size || digestOf(data) != d.Digest {
		return nil, fmt.Errorf("blob %s: %w", d.Digest, ErrDigest)
	}
	return data, nil
}
