package ops

import (
	"encoding/json"
	"strings"
	"testing"
)

// Abuse 15: what encoding/json forgives, the protocol does not.
func TestDecodeStrict(t *testing.T) {
	for _, c := range []struct{ name, in, want string }{
		{"plain", `{"v":1,"id":"a","op":"Hello","args":{}}`, ""},
		{"spaces", " {\"v\" : 1 }\n", ""},
		{"empty object", `{}`, ""},
		{"unknown key", `{"v":1,"x":2}`, "unknown key"},
		{"folded key", `{"V":1}`, "unknown key"},
		{"repeated key", `{"v":1,"v":2}`, "repeated key"},
		{"repeated key inside", `{"args":{"a":1,"a":2}}`, "repeated key"},
		{"array", `{"args":[1]}`, "arrays"},
		{"array at the top", `[]`, "not one JSON object"},
		{"nested", `{"args":{"a":{"b":1}}}`, "nested"},
		{"trailing object", `{"v":1}{"v":2}`, "not one JSON object"},
		{"trailing junk", `{"v":1}x`, "not"},
		{"cut off", `{"v":1`, "not a JSON object"},
		{"string for a number", `{"v":"1"}`, "wrong type"},
		{"number too large", `{"v":1e400}`, "wrong type"},
		{"fraction", `{"v":1.5}`, "wrong type"},
		{"NaN", `{"v":NaN}`, "not a JSON object"},
		{"empty", ``, "not a JSON object"},
		{"NUL", "\x00", "not a JSON object"},
	} {
		var req request
		err := decodeStrict([]byte(c.in), &req)
		switch {
		case c.want == "" && err != nil:
			t.Errorf("%s: %v", c.name, err)
		case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)):
			t.Errorf("%s: got %v, want %q", c.name, err, c.want)
		}
	}
}

// Whatever is accepted means the same to the standard decoder, and says so again.
func FuzzDecodeStrict(f *testing.F) {
	f.Add([]byte(`{"v":1,"id":"a","op":"Hello","args":{"handle":"00"}}`))
	f.Add([]byte(`{"v":1,"v":1}`))
	f.Add([]byte(`{"V":1}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		var req request
		if decodeStrict(data, &req) != nil {
			return
		}
		again, err := json.Marshal(&req)
		if err != nil {
			t.Fatalf("accepted what cannot be encoded: %v", err)
		}
		var back request
		if len(req.Args) == 0 {
			return
		}
		if err := decodeStrict(again, &back); err != nil {
			t.Fatalf("own encoding %s is refused: %v", again, err)
		}
	})
}

func FuzzArgs(f *testing.F) {
	h := strings.Repeat("0a", 16)
	d := strings.Repeat("0b", 32)
	f.Add([]byte(`{"handle":"` + h + `","kernel":"` + d + `","initrd":"` + d + `","vmm":"qemu","net":"none"}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		var a VMStartArgs
		if decodeStrict(data, &a) != nil || a.Validate() != nil {
			return
		}
		if strings.Trim(a.Handle+a.Kernel+a.Initrd, "0123456789abcdef") != "" {
			t.Fatalf("accepted %q", data)
		}
	})
}
