package image

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	godigest "github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"
)

// parted is a container archive that a test can spoil before it is packed: content by name.
type parted map[string][]byte

// dir is the archive as a directory.
func (p parted) dir() fs.FS {
	m := fstest.MapFS{}
	for name, data := range p {
		m[name] = &fstest.MapFile{Data: data}
	}
	return m
}

// tar is the archive as a tar, in the order of names.
func (p parted) tar(t testing.TB) []byte {
	var list []entry
	for _, name := range slices.Sorted(maps.Keys(p)) {
		list = append(list, file(name, string(p[name])))
	}
	return makeTar(t, list...)
}

// blobOf is blobName for a digest of the specification's own type.
func blobOf(d godigest.Digest) string { return blobName(digest(d)) }

func (p parted) addBlob(data []byte) godigest.Digest {
	d := godigest.FromBytes(data)
	p[blobOf(d)] = data
	return d
}

func toJSON(t testing.TB, v any) []byte {
	t.Helper()
	data, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func configOf(layers [][]byte) v1.Image {
	c := v1.Image{}
	c.OS, c.Architecture = "linux", "amd64"
	c.Config.Env = []string{"PATH=/bin", "X=a\nb"}
	c.Config.Cmd = []string{"/bin/sh", "-c", "echo $HOME"}
	c.Config.User, c.Config.WorkingDir = "1000:1000", "/srv"
	for _, l := range layers {
		c.RootFS.DiffIDs = append(c.RootFS.DiffIDs, godigest.FromBytes(l))
	}
	return c
}

// ociLayout packs layers as an OCI layout; pack compresses one.
func ociLayout(t testing.TB, pack func(i int, data []byte) ([]byte, string), layers ...[]byte) parted {
	t.Helper()
	p := parted{"oci-layout": []byte(`{"imageLayoutVersion":"1.0.0"}`)}
	var m v1.Manifest
	m.SchemaVersion, m.MediaType = 2, v1.MediaTypeImageManifest
	config := toJSON(t, configOf(layers))
	m.Config = v1.Descriptor{MediaType: v1.MediaTypeImageConfig, Digest: p.addBlob(config), Size: int64(len(config))}
	for i, l := range layers {
		data, suffix := pack(i, l)
		m.Layers = append(m.Layers, v1.Descriptor{MediaType: v1.MediaTypeImageLayer + suffix, Digest: p.addBlob(data), Size: int64(len(data))})
	}
	p.setManifest(t, m)
	return p
}

// setManifest makes m the only manifest of the index.
func (p parted) setManifest(t testing.TB, m v1.Manifest) {
	data := toJSON(t, m)
	d := v1.Descriptor{MediaType: v1.MediaTypeImageManifest, Digest: p.addBlob(data), Size: int64(len(data))}
	p["index.json"] = toJSON(t, v1.Index{Manifests: []v1.Descriptor{d}})
}

// manifest reads the only manifest of the index.
func (p parted) manifest(t testing.TB) (m v1.Manifest) {
	var index v1.Index
	if err := json.Unmarshal(p["index.json"], &index); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(p[blobOf(index.Manifests[0].Digest)], &m); err != nil {
		t.Fatal(err)
	}
	return m
}

func unpacked(_ int, data []byte) ([]byte, string) { return data, "" }

// mixed compresses each layer in another way.
func mixed(i int, data []byte) ([]byte, string) {
	var b bytes.Buffer
	switch i % 3 {
	case 0:
		z := gzip.NewWriter(&b)
		z.Write(data)
		z.Close()
		return b.Bytes(), "+gzip"
	case 1:
		z, _ := zstd.NewWriter(&b)
		z.Write(data)
		z.Close()
		return b.Bytes(), "+zstd"
	}
	return data, ""
}

// dockerSave packs layers as "docker save" did before version 25.
func dockerSave(t testing.TB, layers ...[]byte) parted {
	t.Helper()
	p := parted{}
	config := toJSON(t, configOf(layers))
	saved := savedImage{Config: godigest.FromBytes(config).Encoded() + ".json", RepoTags: []string{"test:latest"}}
	p[saved.Config] = config
	for _, l := range layers {
		id := godigest.FromBytes(append([]byte("id"), l...)).Encoded()
		p[id+"/layer.tar"], p[id+"/VERSION"] = l, []byte("1.0")
		saved.Layers = append(saved.Layers, id+"/layer.tar")
	}
	p["manifest.json"] = toJSON(t, []savedImage{saved})
	return p
}

func testLayers(t testing.TB) [][]byte {
	return [][]byte{
		makeTar(t, dir("etc"), file("etc/passwd", "root"), file("etc/gone", "x"), dir("opt"), file("opt/a", "1"), file("opt/b", "2")),
		makeTar(t, dir("etc"), file("etc/.wh.gone", ""), dir("opt"), file("opt/.wh..wh..opq", ""), file("opt/c", "3")),
		makeTar(t, file("etc/passwd", "root and more"), link("etc/shadow", "etc/passwd")),
	}
}

var testTree = map[string]string{
	"etc/passwd": "root and more", "etc/shadow": "root and more", "opt/c": "3",
}

// TestEveryWayIn imports the same layers in every format, from every kind of source.
func TestEveryWayIn(t *testing.T) {
	layers := testLayers(t)
	var gz bytes.Buffer
	z := gzip.NewWriter(&gz)
	z.Write(dockerSave(t, layers...).tar(t))
	z.Close()
	withLink := dockerSave(t, layers...)
	formats := map[string]parted{
		"oci plain": ociLayout(t, unpacked, layers...),
		"oci mixed": ociLayout(t, mixed, layers...),
		"docker":    withLink,
	}
	for name, p := range formats {
		data := p.tar(t)
		for kind, src := range map[string]Source{
			"stream":    FromReader(bytes.NewReader(data)),
			"file":      {r: bytes.NewReader(data), at: bytes.NewReader(data), n: int64(len(data))},
			"directory": FromDir(p.dir()),
		} {
			t.Run(name+" "+kind, func(t *testing.T) {
				img, info := importImage(t, src, Options{})
				wantContents(t, img, testTree)
				if !strings.HasPrefix(name, info.Format) || info.Layers != 3 {
					t.Errorf("got %+v", info)
				}
				want := godigest.FromBytes(toJSON(t, configOf(layers))).String()
				if info.Digest != want {
					t.Errorf("digest %s, want %s", info.Digest, want)
				}
				if info.Config.User != "1000:1000" || info.Config.Env[1] != "X=a\nb" || info.Config.Cmd[2] != "echo $HOME" {
					t.Errorf("configuration %+v", info.Config)
				}
			})
		}
	}
	t.Run("compressed archive", func(t *testing.T) {
		img, _ := importImage(t, FromReader(bytes.NewReader(gz.Bytes())), Options{})
		wantContents(t, img, testTree)
		src := Source{r: bytes.NewReader(gz.Bytes()), at: bytes.NewReader(gz.Bytes()), n: int64(gz.Len())}
		img, _ = importImage(t, src, Options{})
		wantContents(t, img, testTree)
	})
	t.Run("archive with root entry", func(t *testing.T) {
		p := ociLayout(t, unpacked, layers...)
		list := []entry{dir("."), dir("./blobs"), dir("./blobs/sha256")}
		for _, name := range slices.Sorted(maps.Keys(p)) {
			list = append(list, file("./"+name, string(p[name])))
		}
		img, _ := importImage(t, FromReader(bytes.NewReader(makeTar(t, list...))), Options{})
		wantContents(t, img, testTree)
	})
	t.Run("layers linked to each other", func(t *testing.T) {
		same := makeTar(t, file("x", "x"))
		p := dockerSave(t, same)
		var saved []savedImage
		json.Unmarshal(p["manifest.json"], &saved)
		other := strings.Repeat("ab", 32)
		saved[0].Layers = append(saved[0].Layers, other+"/layer.tar")
		config := toJSON(t, configOf([][]byte{same, same}))
		saved[0].Config = godigest.FromBytes(config).Encoded() + ".json"
		p[saved[0].Config], p["manifest.json"] = config, toJSON(t, saved)
		data := makeTar(t, append([]entry{symlink(other+"/layer.tar", "../"+saved[0].Layers[0])}, entriesOf(p)...)...)
		img, info := importImage(t, FromReader(bytes.NewReader(data)), Options{})
		wantContents(t, img, map[string]string{"x": "x"})
		if info.Layers != 2 {
			t.Errorf("got %+v", info)
		}
	})
}

func entriesOf(p parted) (list []entry) {
	for _, name := range slices.Sorted(maps.Keys(p)) {
		list = append(list, file(name, string(p[name])))
	}
	return list
}

func TestSpoiledArchives(t *testing.T) {
	layers := testLayers(t)
	oci := func(spoil func(p parted, m *v1.Manifest)) parted {
		p := ociLayout(t, mixed, layers...)
		m := p.manifest(t)
		spoil(p, &m)
		p.setManifest(t, m)
		return p
	}
	docker := func(spoil func(p parted, s *savedImage)) parted {
		p := dockerSave(t, layers...)
		var saved []savedImage
		json.Unmarshal(p["manifest.json"], &saved)
		spoil(p, &saved[0])
		if p["manifest.json"] != nil {
			p["manifest.json"] = toJSON(t, saved)
		}
		return p
	}
	setConfig := func(p parted, m *v1.Manifest, c v1.Image) {
		data := toJSON(t, c)
		m.Config.Digest, m.Config.Size = p.addBlob(data), int64(len(data))
	}
	for name, c := range map[string]struct {
		p    parted
		want error
	}{
		"no layers": {oci(func(p parted, m *v1.Manifest) { m.Layers = nil }), ErrNoLayers},
		"no layers and no digests": {oci(func(p parted, m *v1.Manifest) {
			m.Layers = nil
			setConfig(p, m, configOf(nil))
		}), ErrNoLayers},
		"layer is missing":    {oci(func(p parted, m *v1.Manifest) { delete(p, blobOf(m.Layers[1].Digest)) }), ErrMissing},
		"layer is not listed": {oci(func(p parted, m *v1.Manifest) { m.Layers = m.Layers[:2] }), ErrCorrupt},
		"layer listed twice":  {oci(func(p parted, m *v1.Manifest) { m.Layers[1] = m.Layers[0] }), ErrDigest},
		"layer has another content": {oci(func(p parted, m *v1.Manifest) {
			p[blobOf(m.Layers[2].Digest)] = bytes.Replace(layers[2], []byte("root and more"), []byte("root and less"), 1)
		}), ErrDigest},
		"layer is longer": {oci(func(p parted, m *v1.Manifest) { m.Layers[0].Size++ }), ErrDigest},
		"layer is foreign": {oci(func(p parted, m *v1.Manifest) {
			m.Layers[0].MediaType = "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip"
		}), ErrMissing},
		"layer of strange type": {oci(func(p parted, m *v1.Manifest) {
			m.Layers[0].MediaType = "application/vnd.oci.image.config.v1+json"
		}), ErrUnknownFormat},
		"other DiffID": {oci(func(p parted, m *v1.Manifest) {
			c := configOf(layers)
			c.RootFS.DiffIDs[2] = godigest.FromString("x")
			setConfig(p, m, c)
		}), ErrDigest},
		"digest leads out": {oci(func(p parted, m *v1.Manifest) { m.Layers[0].Digest = "sha256:../../../etc/passwd" }), ErrCorrupt},
		"digest of unknown kind": {oci(func(p parted, m *v1.Manifest) {
			m.Layers[0].Digest = godigest.Digest("sha512:" + strings.Repeat("ab", 64))
		}), ErrCorrupt},
		"for windows": {oci(func(p parted, m *v1.Manifest) {
			c := configOf(layers)
			c.OS = "windows"
			setConfig(p, m, c)
		}), ErrUnknownFormat},
		"configuration has another content": {oci(func(p parted, m *v1.Manifest) { p[blobOf(m.Config.Digest)] = []byte("{}") }), ErrDigest},
		"configuration is too large": {oci(func(p parted, m *v1.Manifest) {
			c := configOf(layers)
			c.Config.Cmd = []string{strings.Repeat("x", 5<<20)}
			setConfig(p, m, c)
		}), ErrTooBig},
		"manifest says another type":     {oci(func(p parted, m *v1.Manifest) { m.MediaType = v1.MediaTypeImageIndex }), ErrCorrupt},
		"docker: no manifest":            {docker(func(p parted, s *savedImage) { delete(p, "manifest.json") }), ErrUnknownFormat},
		"docker: no layers":              {docker(func(p parted, s *savedImage) { s.Layers = nil }), ErrNoLayers},
		"docker: layer is missing":       {docker(func(p parted, s *savedImage) { delete(p, s.Layers[0]) }), ErrMissing},
		"docker: configuration missing":  {docker(func(p parted, s *savedImage) { delete(p, s.Config) }), ErrMissing},
		"docker: configuration differs":  {docker(func(p parted, s *savedImage) { p[s.Config] = append(p[s.Config], ' ') }), ErrDigest},
		"docker: layer differs":          {docker(func(p parted, s *savedImage) { p[s.Layers[0]] = layers[1] }), ErrDigest},
		"docker: layer leads out":        {docker(func(p parted, s *savedImage) { s.Layers[0] = "../../../../etc/passwd" }), ErrMissing},
		"docker: manifest is no JSON":    {docker(func(p parted, s *savedImage) { delete(p, "manifest.json") }).with("manifest.json", "{"), ErrCorrupt},
		"docker: two images":             {dockerSave(t, layers...).twice(t), ErrAmbiguous},
		"index is empty":                 {parted{}.with("index.json", "{}"), ErrNoLayers},
		"index is no JSON":               {parted{}.with("index.json", "["), ErrCorrupt},
		"only a layout file":             {parted{}.with("oci-layout", "{}"), ErrUnknownFormat}, // as a directory, ErrDirectory
		"two images without choice":      {twoImages(t, "", ""), ErrAmbiguous},
		"an image for another processor": {twoImages(t, "s390x", "ppc64le"), ErrMissing},
	} {
		t.Run(name, func(t *testing.T) {
			fails(t, FromDir(c.p.dir()), Options{}, c.want)
			fails(t, FromReader(bytes.NewReader(c.p.tar(t))), Options{}, c.want)
		})
	}
}

func (p parted) with(name, data string) parted {
	p[name] = []byte(data)
	return p
}

func (p parted) twice(t testing.TB) parted {
	var saved []savedImage
	json.Unmarshal(p["manifest.json"], &saved)
	saved = append(saved, saved[0])
	saved[1].RepoTags = []string{"other:latest"}
	p["manifest.json"] = toJSON(t, saved)
	return p
}

// twoImages is a layout with two images for the given processors, if any.
func twoImages(t testing.TB, archs ...string) parted {
	p, index := parted{}, v1.Index{}
	for i, arch := range archs {
		one := ociLayout(t, unpacked, makeTar(t, file("which", arch+strings.Repeat("x", i))))
		maps.Copy(p, one)
		var ix v1.Index
		json.Unmarshal(one["index.json"], &ix)
		d := ix.Manifests[0]
		d.Annotations = map[string]string{v1.AnnotationRefName: "docker.io/library/test:" + arch}
		if arch != "" {
			d.Platform = &v1.Platform{OS: "linux", Architecture: arch}
		}
		index.Manifests = append(index.Manifests, d)
	}
	// What buildkit adds to an image.
	index.Manifests = append(index.Manifests, v1.Descriptor{
		MediaType: v1.MediaTypeImageManifest, Digest: godigest.FromString("attestation"),
		Platform: &v1.Platform{OS: "unknown", Architecture: "unknown"},
	})
	p["index.json"] = toJSON(t, index)
	return p
}

func TestChoice(t *testing.T) {
	p := twoImages(t, "amd64", "arm64")
	// An index in the index, as docker 25 and buildx write it.
	data := p["index.json"]
	p["index.json"] = toJSON(t, v1.Index{Manifests: []v1.Descriptor{{
		MediaType: v1.MediaTypeImageIndex, Digest: p.addBlob(data), Size: int64(len(data)),
		Annotations: map[string]string{"io.containerd.image.name": "docker.io/library/test:1"},
	}}})
	img, _ := importImage(t, FromDir(p.dir()), Options{Architecture: "arm64"})
	wantContents(t, img, map[string]string{"which": "arm64x"})
	img, _ = importImage(t, FromDir(p.dir()), Options{Architecture: "amd64", Ref: "test:1"})
	wantContents(t, img, map[string]string{"which": "amd64"})
	fails(t, FromDir(p.dir()), Options{Architecture: "amd64", Ref: "test:2"}, ErrMissing)
	fails(t, FromDir(p.dir()), Options{Architecture: "s390x", Ref: "test:1"}, ErrMissing)

	d := dockerSave(t, makeTar(t, file("a", "b"))).twice(t)
	img, _ = importImage(t, FromDir(d.dir()), Options{Ref: "other:latest"})
	wantContents(t, img, map[string]string{"a": "b"})
}

// TestReferences chooses by what the error says that there is.
func TestReferences(t *testing.T) {
	docker := dockerSave(t, makeTar(t, file("a", "b"))).twice(t)
	oci := twoImages(t, "", "")
	var index v1.Index
	json.Unmarshal(oci["index.json"], &index)
	index.Manifests[0].Annotations["io.containerd.image.name"] = "docker.io/library/first:1"
	index.Manifests[1].Annotations = nil
	oci["index.json"] = toJSON(t, index)
	second := index.Manifests[1].Digest.String()
	for _, c := range []struct {
		name string
		p    parted
		opts Options
		want string
	}{
		{"docker", docker, Options{Name: "two.tar"}, `import image "two.tar": several images: test:latest, other:latest`},
		{"docker, by another", docker, Options{Ref: "third"}, `import image: image "third": missing from input: there is test:latest, other:latest`},
		{"docker, by the tag of one", docker, Options{Ref: "test:latest"}, ""},
		{"oci", oci, Options{}, `import image: index.json: several images: docker.io/library/first:1, ` + second},
		{"oci, by the end of a name", oci, Options{Ref: "first:1"}, ""},
		{"oci, by digest", oci, Options{Ref: second}, ""},
		{"oci, by another", oci, Options{Ref: "2", Architecture: "amd64"},
			`import image: index.json: image "2" for linux/amd64: missing from input: there is docker.io/library/first:1, ` + second},
	} {
		_, err := Import(t.Context(), FromDir(c.p.dir()), filepath.Join(t.TempDir(), "image"), c.opts)
		if err == nil && c.want != "" || err != nil && err.Error() != c.want {
			t.Errorf("%s: got %v, want %s", c.name, err, c.want)
		}
	}
	fails(t, FromReader(bytes.NewReader(makeTar(t, file("a", "b")))), Options{Ref: "a"}, ErrMissing)
	if s := listed(slices.Repeat([]string{strings.Repeat("x", 1<<20)}, 1000)); len(s) > 10_000 || !strings.HasSuffix(s, " and 984 more") {
		t.Errorf("a list of %d bytes", len(s))
	}
}

// TestDirectoryWithPipes has in it what nobody writes to.
func TestDirectoryWithPipes(t *testing.T) {
	for _, name := range []string{"index.json", "manifest.json"} {
		dir := t.TempDir()
		if err := unix.Mkfifo(filepath.Join(dir, name), 0o600); err != nil {
			t.Fatal(err)
		}
		root, err := os.OpenRoot(dir)
		if err != nil {
			t.Fatal(err)
		}
		defer root.Close()
		fails(t, FromDir(root.FS()), Options{}, ErrCorrupt)
	}
}

func TestArchiveWithPartTwice(t *testing.T) {
	p := dockerSave(t, makeTar(t, file("a", "b")))
	data := makeTar(t, append(entriesOf(p), file("manifest.json", "[]"))...)
	fails(t, FromReader(bytes.NewReader(data)), Options{}, ErrCorrupt)
	at := Source{r: bytes.NewReader(data), at: bytes.NewReader(data), n: int64(len(data))}
	fails(t, at, Options{}, ErrCorrupt)
}

func TestArchiveWithLongNames(t *testing.T) {
	long := strings.Repeat("x", maxPartName+1)
	p := dockerSave(t, makeTar(t, file("a", "b")))
	for _, e := range []entry{file(long, ""), symlink("blobs/link", long), link("blobs/link", long)} {
		data := makeTar(t, append(entriesOf(p), e)...)
		fails(t, FromReader(bytes.NewReader(data)), Options{}, ErrTooBig)
		at := Source{r: bytes.NewReader(data), at: bytes.NewReader(data), n: int64(len(data))}
		fails(t, at, Options{}, ErrTooBig)
	}
}

func TestArchiveWithDevice(t *testing.T) {
	p := dockerSave(t, makeTar(t, file("a", "b")))
	data := makeTar(t, append(entriesOf(p), entry{Header: tar.Header{Typeflag: tar.TypeBlock, Name: "blobs/disk"}})...)
	fails(t, FromReader(bytes.NewReader(data)), Options{}, ErrCorrupt)
}
