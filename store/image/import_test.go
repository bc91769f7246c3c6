package image

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	guest "banger/personas/guest/link"
	"banger/store/ext4/ext4test"
)

// entry is a tar entry of a test.
type entry struct {
	tar.Header
	data string
}

func dir(name string) entry {
	return entry{Header: tar.Header{Typeflag: tar.TypeDir, Name: name + "/", Mode: 0o755}}
}

func file(name, data string) entry {
	return entry{Header: tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: int64(len(data))}, data: data}
}

func symlink(name, target string) entry {
	return entry{Header: tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: target, Mode: 0o777}}
}

func link(name, target string) entry {
	return entry{Header: tar.Header{Typeflag: tar.TypeLink, Name: name, Linkname: target}}
}

// makeTar writes a tar of entries.
func makeTar(t testing.TB, entries ...entry) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, e := range entries {
		if e.ModTime.IsZero() && e.Typeflag != tar.TypeXGlobalHeader {
			e.ModTime = time.Unix(1700000000, 0)
		}
		if err := w.WriteHeader(&e.Header); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, e.data); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// importImage imports src and checks the image with e2fsck.
func importImage(t testing.TB, src Source, opts Options) (string, Info) {
	t.Helper()
	dst := filepath.Join(t.TempDir(), "image.ext4")
	info, err := Import(t.Context(), src, dst, opts)
	if err != nil {
		t.Fatal(err)
	}
	ext4test.Check(t, dst)
	return dst, info
}

// fails imports src, wants the error, and wants nothing to be left in the folder.
func fails(t testing.TB, src Source, opts Options, want error) {
	t.Helper()
	dir := t.TempDir()
	_, err := Import(t.Context(), src, filepath.Join(dir, "image.ext4"), opts)
	if !errors.Is(err, want) {
		t.Errorf("error is %v, want %v", err, want)
	}
	if left, _ := os.ReadDir(dir); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestRootFS(t *testing.T) {
	data := makeTar(t,
		dir("."), dir("./etc"), dir("./usr"), dir("./usr/lib"),
		file("./usr/lib/os-release", "NAME=x\nPRETTY_NAME=\"Test OS 1\"\n"),
		symlink("./etc/os-release", "../usr/lib/os-release"),
		entry{Header: tar.Header{Typeflag: tar.TypeReg, Name: "usr/lib/systemd/systemd", Mode: 0o755, Size: 3}, data: "elf"},
		symlink("lib", "usr/lib"), symlink("sbin", "usr/sbin"),
		symlink("usr/sbin/init", "/lib/systemd/systemd"),
	)
	_, info := importImage(t, FromReader(bytes.NewReader(data)), Options{})
	if info.OSName != "Test OS 1" || info.Init != "/sbin/init" || info.Format != "rootfs" || info.Entries != 10 {
		t.Errorf("got %+v", info)
	}
}

// TestInits keeps two lists the same, which neither side can read of the other.
func TestInits(t *testing.T) {
	if !slices.Equal(initPaths, guest.Inits()) {
		t.Errorf("the guest looks for an init in %q, an import in %q", guest.Inits(), initPaths)
	}
	for _, p := range guest.Inits() {
		e := file(p, "#!/bin/sh")
		e.Mode = 0o755
		_, info := importImage(t, FromReader(bytes.NewReader(makeTar(t, e))), Options{})
		if info.Init != p {
			t.Errorf("the init in %s is found in %q", p, info.Init)
		}
	}
}
