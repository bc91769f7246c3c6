package image

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"

	godigest "github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// written are archives with the names and in the order in which those who write them do.
func written(t testing.TB) map[string][]entry {
	layers := testLayers(t)
	config := toJSON(t, configOf(layers))
	id := godigest.FromBytes(config)
	// manifest is manifest.json with layers of the given names.
	manifest := func(config string, names ...string) entry {
		return file("manifest.json", string(toJSON(t, []savedImage{{Config: config, RepoTags: []string{"test:latest"}, Layers: names}})))
	}
	var hexes, ids []string // of the layers, and of what docker called images before 1.10
	for _, l := range layers {
		hexes = append(hexes, godigest.FromBytes(l).Encoded())
		ids = append(ids, godigest.FromBytes(append([]byte("id"), l...)).Encoded())
	}
	all := func(format string, list []string) (names []string) {
		for _, s := range list {
			names = append(names, fmt.Sprintf(format, s))
		}
		return names
	}
	layerTars := all("%s/layer.tar", ids)
	repositories := file("repositories", `{}`)

	// go-containerregistry's tarball.Write: crane, ko, kaniko.
	crane := []entry{file(id.String(), string(config))}
	var gz []string
	for _, l := range layers {
		data, _ := mixed(0, l)
		gz = append(gz, godigest.FromBytes(data).Encoded()+".tar.gz")
		crane = append(crane, file(gz[len(gz)-1], string(data)))
	}
	crane = append(crane, manifest(id.String(), gz...))

	// Its legacy/tarball.Write.
	legacy := []entry{file(id.Encoded()+".json", string(config))}
	for i, l := range layers {
		legacy = append(legacy, file(layerTars[i], string(l)), file(ids[i]+"/json", "{}"), file(ids[i]+"/VERSION", "1.0"))
	}
	legacy = append(legacy, manifest(id.Encoded()+".json", layerTars...), repositories)

	// Jib: the layers, then a configuration of another name.
	jib := append(slices.Clone(crane[1:len(crane)-1]), file("config.json", string(config)), manifest("config.json", gz...))

	// Docker 1.10 to 24: a directory, in the order of names.
	var old []entry
	for i, l := range layers {
		old = append(old, dir(ids[i]), file(ids[i]+"/VERSION", "1.0"), file(ids[i]+"/json", "{}"), file(layerTars[i], string(l)))
	}
	old = append(old, file(id.Encoded()+".json", string(config)), manifest(id.Encoded()+".json", layerTars...), repositories)
	slices.SortFunc(old, func(a, b entry) int { return strings.Compare(a.Name, b.Name) })

	// containers/image's docker-archive: podman save, skopeo, buildah.
	var podman []entry
	for i, l := range layers {
		podman = append(podman, file(hexes[i]+".tar", string(l)))
	}
	podman = append(podman, file(id.Encoded()+".json", string(config)))
	for i := range layers {
		podman = append(podman, symlink(layerTars[i], "../"+hexes[i]+".tar"), file(ids[i]+"/VERSION", "1.0"), file(ids[i]+"/json", "{}"))
	}
	podman = append(podman, manifest(id.Encoded()+".json", all("%s.tar", hexes)...), repositories)

	// Docker since 25: an OCI layout that has manifest.json too, in the order of names.
	layout := func(p parted) []entry {
		list := append([]entry{dir("blobs"), dir("blobs/sha256")}, entriesOf(p)...)
		slices.SortFunc(list, func(a, b entry) int { return strings.Compare(a.Name, b.Name) })
		return list
	}
	docker := ociLayout(t, unpacked, layers...)
	saved := manifest("blobs/sha256/"+id.Encoded(), all("blobs/sha256/%s", hexes)...)
	docker["manifest.json"], docker["repositories"] = []byte(saved.data), []byte("{}")

	// Docker 25.0 wrote a manifest without layers, and none at all without a tag.
	first := ociLayout(t, unpacked, layers...)
	m := first.manifest(t)
	m.Layers = []v1.Descriptor{}
	first.setManifest(t, m)
	first["manifest.json"] = []byte(saved.data)
	untagged := ociLayout(t, unpacked, layers...)
	untagged["index.json"], untagged["manifest.json"] = []byte(`{"schemaVersion":2,"manifests":null}`), []byte(saved.data)

	// buildkit and ctr image export name no more than the layout; skopeo's oci-archive too.
	oci := layout(ociLayout(t, mixed, layers...))

	// Buildpacks: absolute names.
	pack := []entry{file("/"+id.Encoded()+".json", string(config))}
	for i, l := range layers {
		pack = append(pack, file("/"+hexes[i]+".tar", string(l)))
	}
	pack = append(pack, manifest(id.Encoded()+".json", all("/%s.tar", hexes)...))

	// nixpkgs' stream_layered_image.py: the layers, each in a directory, then the rest.
	var nix []entry
	for i, l := range layers {
		nix = append(nix, dir(hexes[i]), file(hexes[i]+"/layer.tar", string(l)))
	}
	nix = append(nix, file(id.Encoded()+".json", string(config)), manifest(id.Encoded()+".json", all("%s/layer.tar", hexes)...))

	return map[string][]entry{
		"crane": crane, "crane legacy": legacy, "jib": jib, "docker old": old, "docker new": layout(docker),
		"docker 25.0": layout(first), "docker 25.0 untagged": layout(untagged), "podman": podman, "oci": oci, "pack": pack, "nix": nix,
	}
}

// TestArchivesAsWritten imports what the known writers write, from a pipe and from a file.
func TestArchivesAsWritten(t *testing.T) {
	for name, list := range written(t) {
		t.Run(name, func(t *testing.T) {
			data := makeTar(t, list...)
			for _, src := range []Source{
				FromReader(bytes.NewReader(data)),
				{r: bytes.NewReader(data), at: bytes.NewReader(data), n: int64(len(data))},
			} {
				img, info := importImage(t, src, Options{})
				wantContents(t, img, testTree)
				if info.Format == "rootfs" || info.Layers != 3 {
					t.Errorf("got %+v", info)
				}
			}
		})
	}
}

// TestArchiveInDisguise has archives whose first entry tells nothing: they were root file
// systems once.
func TestArchiveInDisguise(t *testing.T) {
	layer := makeTar(t, file("a", "b"))
	manifest := func(layers ...string) entry {
		return file("./manifest.json", string(toJSON(t, []savedImage{{Config: "c.json", Layers: layers}})))
	}
	for name, list := range map[string][]entry{
		"layer.tar":          {file("a/layer.tar", string(layer)), file("c.json", "{}"), manifest("a/layer.tar")},
		"layer.tar unlisted": {file("a/layer.tar", string(layer)), file("manifest.json", "{}")},
		"other names":        {dir("x"), file("x/0.tgz", string(layer)), manifest("/x/0.tgz")},
		"manifest first":     {file("README", ""), manifest("x/0.tgz"), file("x/0.tgz", string(layer))},
		"oci-layout":         {file("README", ""), file("./oci-layout", "{}"), file("index.json", "{}")},
	} {
		t.Run(name, func(t *testing.T) {
			fails(t, FromReader(bytes.NewReader(makeTar(t, list...))), Options{}, ErrArchive)
		})
	}
	// And what only looks alike.
	for name, list := range map[string][]entry{
		"manifest of something else": {dir("etc"), file("manifest.json", `[{"Layers":["etc/none"]}]`)},
		"manifest of a web page":     {dir("etc"), file("manifest.json", `{"name":"x"}`), file("backup.tar", "x")},
		"manifest deep down":         {dir("srv"), file("srv/x/manifest.json", "[]"), file("srv/x/y/layer.tar", "")},
		"layer.tar alone":            {dir("srv"), file("srv/layer.tar", "")},
		"oci-layout is a directory":  {dir("etc"), dir("oci-layout")},
	} {
		t.Run(name, func(t *testing.T) {
			if _, info := importImage(t, FromReader(bytes.NewReader(makeTar(t, list...))), Options{}); info.Format != "rootfs" {
				t.Errorf("got %+v", info)
			}
		})
	}
}

// TestIsArchive has first entries that the archives above do not have.
func TestIsArchive(t *testing.T) {
	hex := strings.Repeat("0a", 32)
	for name, want := range map[string]bool{
		"./" + hex: true, "sha256:" + hex + ".tar.gz": true, "blobs/sha512/" + hex: true, "./manifest.json": true,
		"etc": false, hex[1:]: false, hex + ".txt": false, "blobs2": false, "srv/manifest.json": false,
	} {
		if got := isArchive(makeTar(t, dir("."), file(name, ""))); got != want {
			t.Errorf("%s: got %v", name, got)
		}
	}
}
