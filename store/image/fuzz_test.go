package image

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"banger/store/ext4/ext4test"
)

// fuzzLimits keep an input of the fuzzer from asking for much.
var fuzzLimits = Limits{Bytes: 8 << 20, Entries: 300, RatioFree: 8 << 20}

// knownErrors are all that a bad input may lead to.
var knownErrors = []error{ErrUnknownFormat, ErrCorrupt, ErrDigest, ErrMissing, ErrTooBig, ErrNoLayers, ErrArchive, ErrAmbiguous}

// tryImport imports an input of the fuzzer: the result is a clean image, or a known error
// and nothing left behind.
func tryImport(t *testing.T, src Source) {
	dir := t.TempDir()
	dst := filepath.Join(dir, "image")
	_, err := Import(t.Context(), src, dst, Options{SizeBytes: 32 << 20, Limits: fuzzLimits})
	if err == nil {
		ext4test.Check(t, dst)
		return
	}
	if left, _ := os.ReadDir(dir); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
	for _, known := range knownErrors {
		if errors.Is(err, known) {
			return
		}
	}
	t.Errorf("error of no known kind: %v", err)
}

// FuzzImport gives a whole input, as from a pipe and as from a file.
func FuzzImport(f *testing.F) {
	layers := testLayers(f)
	f.Add(makeTar(f, testEntries()...))
	f.Add(dockerSave(f, layers...).tar(f))
	f.Add(ociLayout(f, mixed, layers...).tar(f))
	f.Add(gnuSparse(1 << 20))
	gz, _ := mixed(0, makeTar(f, testEntries()...))
	f.Add(gz)
	f.Fuzz(func(t *testing.T, data []byte) {
		tryImport(t, FromReader(bytes.NewReader(data)))
		tryImport(t, Source{r: bytes.NewReader(data), at: bytes.NewReader(data), n: int64(len(data))})
	})
}

// FuzzManifest gives the manifest of an archive whose other parts are good.
func FuzzManifest(f *testing.F) {
	layers := testLayers(f)
	oci, docker := ociLayout(f, unpacked, layers...), dockerSave(f, layers...)
	f.Add([]byte(`{}`), oci["index.json"])
	f.Add(docker["manifest.json"], []byte(nil))
	f.Fuzz(func(t *testing.T, manifest, index []byte) {
		p := parted{}
		for _, part := range []parted{oci, docker} {
			for name, data := range part {
				p[name] = data
			}
		}
		p["manifest.json"], p["index.json"] = manifest, index
		if len(index) == 0 {
			delete(p, "index.json")
		}
		tryImport(t, FromDir(p.dir()))
	})
}

// FuzzMerge makes layers out of the fuzzer's bytes, so that it needs no luck with checksums:
// each line is an entry, its first byte the kind, and an empty line begins a layer.
func FuzzMerge(f *testing.F) {
	f.Add([]byte("da\nfa/b\nfa/c\n\nfa/.wh.b\nsl a\nfl/d\n\nfa/.wh..wh..opq\nha/x a/c"))
	f.Add([]byte("sa b\nsb a\nfa/x"))
	f.Add([]byte("fa\nhb a\nhc b\n\nf.wh.a\nfa\nda"))
	f.Add([]byte("flost+found/a\n\nf.wh.lost+found\ndlost+found"))
	f.Fuzz(func(t *testing.T, script []byte) {
		layers := scriptLayers(t, script)
		if len(layers) == 0 || len(layers) > 20 {
			return
		}
		tryImport(t, FromDir(ociLayout(t, unpacked, layers...).dir()))
	})
}

// scriptLayers makes the layers of FuzzMerge.
func scriptLayers(t testing.TB, script []byte) (layers [][]byte) {
	for part := range bytes.SplitSeq(script, []byte("\n\n")) {
		var list []entry
		for line := range bytes.SplitSeq(part, []byte("\n")) {
			if len(line) < 2 || bytes.IndexByte(line, 0) >= 0 || len(line) > 200 {
				continue
			}
			name, target, _ := bytes.Cut(line[1:], []byte(" "))
			if len(name) == 0 || name[len(name)-1] == '/' {
				continue
			}
			switch line[0] {
			case 'd':
				list = append(list, dir(string(name)))
			case 's':
				list = append(list, symlink(string(name), string(target)))
			case 'h':
				list = append(list, link(string(name), string(target)))
			default:
				list = append(list, file(string(name), string(bytes.Repeat(line, int(line[0])))))
			}
		}
		layers = append(layers, makeTar(t, list...))
	}
	return layers
}
