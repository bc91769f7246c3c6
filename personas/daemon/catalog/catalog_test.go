package catalog

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"banger/personas/api"
	"banger/store"
)

// lab is a catalogue of images over a store that can be opened again.
type lab struct {
	*Catalog[Image]
	store *store.Store
	inUse string
}

func newLab(t *testing.T) *lab {
	t.Helper()
	s, err := store.Open(t.TempDir())
	must(t, err)
	t.Cleanup(func() { s.Close() })
	l := &lab{store: s}
	if damaged := l.reopen(t); len(damaged) > 0 {
		t.Fatalf("an empty store is damaged: %v", damaged)
	}
	return l
}

func (l *lab) reopen(t *testing.T) (damaged []store.Damage) {
	t.Helper()
	var err error
	l.Catalog, damaged, err = Open("image", store.Kind[Image](l.store, "images"), func(string, string) string { return l.inUse })
	must(t, err)
	return damaged
}

// publish lists an image whose content is its digest.
func (l *lab) publish(t *testing.T, name, digest string, isDefault bool) (Image, error) {
	t.Helper()
	dir, err := os.MkdirTemp(l.store.TempDir(), "item-")
	must(t, err)
	must(t, os.WriteFile(filepath.Join(dir, "image.ext4"), []byte(digest), 0o444))
	return l.Publish(dir, Image{Image: api.Image{Name: name, Digest: digest, Default: isDefault}})
}

func digest(c string) string { return "sha256:" + strings.Repeat(c, 64) }

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func wantCode(t testing.TB, err error, code api.Code) {
	t.Helper()
	var e *api.Error
	if !errors.As(err, &e) || e.Code != code {
		t.Errorf("got %v, want an error as %s", err, code)
	}
}

func (l *lab) defaults() (names []string) {
	for _, i := range l.List() {
		if i.Default {
			names = append(names, i.Name)
		}
	}
	return names
}

func TestFind(t *testing.T) {
	l := newLab(t)
	_, err := l.Find("")
	wantCode(t, err, api.CodeNotFound)
	must2(l.publish(t, "a", digest("a"), false))(t)
	if i, err := l.Find(""); err != nil || i.Name != "a" {
		t.Errorf("the only one is %v, %v", i.Name, err)
	}
	must2(l.publish(t, "b", digest("b"), false))(t)
	_, err = l.Find("")
	wantCode(t, err, api.CodeUsage)
	for name, want := range map[string]string{
		"a": "a", digest("b"): "b", strings.Repeat("b", 64): "b", "bbbbbb": "b", "sha256:aaaaaa": "a",
	} {
		if i, err := l.Find(name); err != nil || i.Name != want {
			t.Errorf("%s is %q, %v; want %s", name, i.Name, err, want)
		}
	}
	for _, name := range []string{"c", "bbbbb", "sha256:", "../a"} {
		_, err := l.Find(name)
		wantCode(t, err, api.CodeNotFound)
	}
}

func must2[T any](_ T, err error) func(testing.TB) {
	return func(t testing.TB) { t.Helper(); must(t, err) }
}

// The same content under the same name is no error and changes nothing; another
// content is refused, and what is there stays.
func TestPublishTwice(t *testing.T) {
	l := newLab(t)
	first, err := l.publish(t, "a", digest("a"), false)
	must(t, err)
	again, err := l.publish(t, "a", digest("a"), false)
	if err != nil || fmt.Sprint(again) != fmt.Sprint(first) {
		t.Errorf("published again: %+v, %v", again, err)
	}
	_, err = l.publish(t, "a", digest("b"), true)
	wantCode(t, err, api.CodeConflict)
	if content, err := os.ReadFile(filepath.Join(l.Path("a"), "image.ext4")); err != nil || string(content) != digest("a") {
		t.Errorf("content is %q, %v", content, err)
	}
	if len(l.defaults()) > 0 {
		t.Errorf("defaults are %v", l.defaults())
	}
}

func TestPublishAtOnce(t *testing.T) {
	l := newLab(t)
	var wg sync.WaitGroup
	var mu sync.Mutex
	refused := 0
	for i := range 8 {
		wg.Go(func() {
			if _, err := l.publish(t, "a", digest(fmt.Sprint(i%2)), i%3 == 0); err != nil {
				wantCode(t, err, api.CodeConflict)
				mu.Lock()
				refused++
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	if len(l.List()) != 1 || refused != 4 {
		t.Errorf("%d listed, %d refused; want 1, 4", len(l.List()), refused)
	}
}

// One at most is the default, and the mark outlives the daemon.
func TestDefault(t *testing.T) {
	l := newLab(t)
	for _, name := range []string{"a", "b", "c"} {
		must2(l.publish(t, name, digest(name), name != "c"))(t)
	}
	for range 2 {
		if got := l.defaults(); len(got) != 1 || got[0] != "b" {
			t.Errorf("defaults are %v, want b", got)
		}
		l.reopen(t)
	}
	must2(l.publish(t, "a", digest("a"), true))(t) // is how the mark is moved
	if got := l.defaults(); len(got) != 1 || got[0] != "a" {
		t.Errorf("defaults are %v, want a", got)
	}
	must(t, l.Delete("a"))
	_, err := l.Find("")
	wantCode(t, err, api.CodeUsage)
	// A crash while the mark moves leaves two: it is always the same one then.
	for _, name := range []string{"b", "c"} {
		must(t, store.Kind[Image](l.store, "images").Save(name, Image{Image: api.Image{Name: name, Digest: digest(name), Default: true}}))
	}
	l.reopen(t)
	for range 20 {
		if i, err := l.Find(""); err != nil || i.Name != "b" {
			t.Fatalf("the default is %s, %v", i.Name, err)
		}
	}
	must2(l.publish(t, "c", digest("c"), true))(t)
	if got := l.defaults(); len(got) != 1 || got[0] != "c" {
		t.Errorf("defaults are %v, want c", got)
	}
}

func TestUpdate(t *testing.T) {
	l := newLab(t)
	_, err := l.publish(t, "debian", digest("a"), true)
	must(t, err)
	seal := store.Seal{Bytes: 7}
	must(t, l.Update("debian", func(i Image) Image { i.Seal = seal; return i }))
	l.reopen(t)
	if i, err := l.Find("debian"); err != nil || i.Seal != seal || !i.Default {
		t.Errorf("%+v, %v", i, err)
	}
	var refused *api.Error
	if err := l.Update("gone", func(i Image) Image { return i }); !errors.As(err, &refused) || refused.Code != api.CodeNotFound {
		t.Errorf("of an image that is not there: %v", err)
	}
}

func TestDelete(t *testing.T) {
	l := newLab(t)
	must2(l.publish(t, "a", digest("a"), false))(t)
	l.inUse = "web"
	wantCode(t, l.Delete("a"), api.CodeConflict)
	l.inUse = ""
	_, first, err := l.Pin("a")
	must(t, err)
	_, second, err := l.Pin("")
	must(t, err)
	first()
	wantCode(t, l.Delete("a"), api.CodeConflict)
	second()
	must(t, l.Delete(digest("a")))
	wantCode(t, l.Delete("a"), api.CodeNotFound)
	if _, err := os.Stat(l.Path("a")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("files are left: %v", err)
	}
	must2(l.publish(t, "a", digest("b"), false))(t) // the name is free
}

// An item whose files do not go at once is not listed all the same, and its name is free.
func TestDeleteOfWhatDoesNotGo(t *testing.T) {
	l := newLab(t)
	must2(l.publish(t, "a", digest("a"), false))(t)
	stays := filepath.Join(l.Path("a"), "mounted")
	must(t, os.Mkdir(stays, 0o700))
	if err := unix.Mount("tmpfs", stays, "tmpfs", 0, ""); err != nil {
		t.Skipf("needs to mount a tmpfs: %v", err)
	}
	t.Cleanup(func() {
		left, _ := filepath.Glob(filepath.Join(l.store.TempDir(), "*", "mounted"))
		for _, path := range append(left, stays) {
			unix.Unmount(path, unix.MNT_DETACH)
		}
	})
	if err := l.Delete("a"); !errors.Is(err, unix.EBUSY) {
		t.Errorf("delete says %v", err)
	}
	if list := l.List(); len(list) > 0 {
		t.Errorf("listed are %+v", list)
	}
	must2(l.publish(t, "a", digest("b"), false))(t)
}

func TestDamagedItemsAreLeftOut(t *testing.T) {
	l := newLab(t)
	must2(l.publish(t, "a", digest("a"), false))(t)
	images := store.Kind[Image](l.store, "images")
	must(t, images.Save("b", Image{Image: api.Image{Name: "a"}})) // another's name
	must(t, images.Save("c", Image{Image: api.Image{Name: "c"}}))
	must(t, os.WriteFile(filepath.Join(images.Path("c"), "record.json"), []byte("{"), 0o600))
	if damaged := l.reopen(t); len(damaged) != 2 {
		t.Errorf("damaged are %v", damaged)
	}
	if list := l.List(); len(list) != 1 || list[0].Name != "a" {
		t.Errorf("listed are %v", list)
	}
	if damaged, err := Look(images); err != nil || len(damaged) != 2 {
		t.Errorf("a look finds %v, %v", damaged, err)
	}
	_, err := l.publish(t, "c", digest("c"), false)
	wantCode(t, err, api.CodeConflict)
	_, err = l.Find("c")
	wantCode(t, err, api.CodeConflict)
	// They can be given up, and their names are free then.
	l.inUse = "web"
	wantCode(t, l.Delete("c"), api.CodeConflict)
	l.inUse = ""
	for _, name := range []string{"b", "c"} {
		must(t, l.Delete(name))
		wantCode(t, l.Delete(name), api.CodeNotFound)
		must2(l.publish(t, name, digest(name), false))(t)
	}
}
