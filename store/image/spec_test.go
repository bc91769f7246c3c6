package image

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"

	godigest "github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// TestSpec: what is read of the specification has the names and the types that its own
// module gives it.
func TestSpec(t *testing.T) {
	for name, c := range map[string]struct{ own, spec any }{
		"descriptor": {descriptor{}, v1.Descriptor{}},
		"platform":   {platform{}, v1.Platform{}},
		"manifest":   {manifestBlob{}, v1.Manifest{}},
		"index":      {indexBlob{}, v1.Index{}},
		"config":     {configBlob{}, v1.Image{}},
	} {
		t.Run(name, func(t *testing.T) {
			spec := fields("", reflect.TypeOf(c.spec))
			for field, kind := range fields("", reflect.TypeOf(c.own)) {
				if spec[field] != kind {
					t.Errorf("%s is a %v, in the specification a %v", field, kind, spec[field])
				}
			}
		})
	}
	for own, spec := range map[string]string{typeManifest: v1.MediaTypeImageManifest, typeIndex: v1.MediaTypeImageIndex, typeLayer: v1.MediaTypeImageLayer, nameKeys[1]: v1.AnnotationRefName} {
		if own != spec {
			t.Errorf("%q is %q in the specification", own, spec)
		}
	}
}

// fields are the kinds of all that JSON fills in a struct, by its path.
func fields(at string, t reflect.Type) map[string]reflect.Kind {
	all := map[string]reflect.Kind{at: t.Kind()}
	switch t.Kind() {
	case reflect.Pointer, reflect.Slice, reflect.Map:
		for path, kind := range fields(at+"[]", t.Elem()) {
			all[path] = kind
		}
	case reflect.Struct:
		for f := range t.Fields() {
			name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
			if name == "" && !f.Anonymous {
				name = f.Name
			}
			for path, kind := range fields(strings.TrimSuffix(at+"."+name, "."), f.Type) {
				all[path] = kind
			}
		}
	}
	return all
}

func TestDigestCheck(t *testing.T) {
	hex := strings.Repeat("0123456789abcdef", 4)
	for text, ok := range map[string]bool{
		"sha256:" + hex:                  true,
		"sha256:" + strings.ToUpper(hex): false,
		"sha256:" + hex[1:]:              false,
		"sha256:" + hex + "0":            false,
		"sha256:" + hex[1:] + "g":        false,
		"sha256:../" + hex[3:]:           false,
		"sha256:":                        false,
		"sha512:" + hex + hex:            false,
		"SHA256:" + hex:                  false,
		hex:                              false,
		"":                               false,
	} {
		var d digest
		if err := json.Unmarshal([]byte(`"`+text+`"`), &d); err != nil {
			t.Fatal(err)
		}
		if err := d.check(); (err == nil) != ok {
			t.Errorf("check of %q: %v", text, err)
		}
		of := godigest.Digest(text)
		if spec := of.Validate() == nil && of.Algorithm() == godigest.SHA256; spec != ok {
			t.Errorf("the specification takes %q: %t", text, spec)
		}
	}
	if got, want := digestOf([]byte("x")), godigest.FromString("x"); string(got) != want.String() {
		t.Errorf("digest is %s, want %s", got, want)
	}
}
