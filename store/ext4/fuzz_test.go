package ext4

import (
	"errors"
	"fmt"
	"io/fs"
	"testing"

	"banger/store/ext4/ext4test"
)

// FuzzWriter makes calls out of the fuzzer's bytes: each three are a call and its names, of
// which there are few, so that they meet. Whatever is refused, the image is clean.
func FuzzWriter(f *testing.F) {
	f.Add([]byte("0ab0abc1ab2ab3aa4aa5aa6aa7aa8ab"))
	f.Add([]byte{0, 1, 0, 0, 2, 1, 4, 1, 2, 6, 0, 0, 5, 1, 0, 3, 7, 2, 7, 7, 7})
	f.Add([]byte{2, 1, 9, 0, 9, 1, 6, 0, 0, 5, 9, 0, 1, 9, 1, 4, 9, 3})
	f.Fuzz(func(t *testing.T, script []byte) {
		if len(script) > 600 {
			return
		}
		w, file := newImage(t, Options{SizeBytes: 20 << 20})
		for ; len(script) >= 3; script = script[3:] {
			err := fuzzCall(w, script[0]%8, fuzzName(script[1]), fuzzName(script[2]))
			if err != nil && !isRefusal(err) {
				t.Fatal(err)
			}
		}
		if _, err := w.Finish(); err != nil {
			t.Fatal(err)
		}
		ext4test.Check(t, file.Name())
	})
}

// fuzzName is one of a few paths, some of which lead through others.
func fuzzName(b byte) string {
	name := string(rune('a' + b%5))
	if b/5%5 != 0 {
		name = string(rune('a'+b/5%5)) + "/" + name
	}
	if b/25%5 == 1 {
		name = "lost+found/" + name
	}
	return name
}

func fuzzCall(w *Writer, call byte, a, b string) error {
	attrs := map[string][]byte{"user." + b: noise(uint64(len(a)), 50*len(b)), "trusted.x": []byte(a)}
	switch call {
	case 0, 1:
		data := noise(uint64(call), 3000*len(b)*int(call))
		if err := w.Create(a, Header{Mode: modeRegular | 0o644, Size: int64(len(data)), Xattrs: attrs}); err != nil {
			return err
		}
		_, err := w.Write(data)
		return err
	case 2:
		return w.Create(a, Header{Mode: modeDir | 0o755, Xattrs: attrs})
	case 3:
		target := b
		if len(b) > 3 { // a long one
			target = fmt.Sprintf("%0100d/../../%s", 0, b)
		}
		return w.Create(a, Header{Mode: modeSymlink | 0o777, Target: target})
	case 4:
		return w.Link(b, a)
	case 5:
		return w.Remove(a)
	case 6:
		w.NextLayer()
		return nil
	default:
		return w.Clear(a)
	}
}

// isRefusal tells the errors that say no to one call.
func isRefusal(err error) bool {
	for _, e := range []error{ErrName, ErrNotDir, ErrLoop, ErrLinks, ErrXattr, fs.ErrNotExist} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// FuzzXattr gives attributes of any name and value, ACLs among them.
func FuzzXattr(f *testing.F) {
	f.Add("user.x", []byte("value"), "system.posix_acl_access", aclOf([3]uint32{1, 7, 0}, [3]uint32{4, 7, 0}, [3]uint32{32, 7, 0}))
	f.Add("security.capability", []byte{1, 0, 0, 2}, "trusted."+string(make([]byte, 300)), []byte{})
	f.Add("user.\xff\xfe", make([]byte, 4000), "user.", []byte{1})
	f.Fuzz(func(t *testing.T, name1 string, value1 []byte, name2 string, value2 []byte) {
		w, file := newImage(t, Options{SizeBytes: 20 << 20})
		attrs := map[string][]byte{name1: value1, name2: value2}
		err := w.Create("file", Header{Mode: modeRegular | 0o644, Xattrs: attrs})
		if err != nil {
			if !errors.Is(err, ErrXattr) {
				t.Fatal(err)
			}
			return
		}
		finish(t, w, file)
	})
}
