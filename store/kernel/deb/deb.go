// Package deb walks over the files of a Debian package: an ar archive with a
// compressed tar in it. Nothing is written anywhere, and no script is looked at.
package deb

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"path"
	"strconv"
	"strings"

	"banger/store/kernel/decompress"
)

// ErrMalformed means a package that cannot be read any further.
var ErrMalformed = errors.New("malformed deb package")

const (
	arMagic      = "!<arch>\n"
	arHeaderSize = 60
	// maxBytes bounds what a package decompresses to; kernels have a tenth of it.
	maxBytes = 8 << 30
	// maxName bounds a file's name, which archive/tar lets have a MiB.
	maxName = 4096
)

// IsDeb tells whether a file that starts with head can be a Debian package.
func IsDeb(head []byte) bool { return bytes.HasPrefix(head, []byte(arMagic)) }

// Walk calls fn for every regular file of the package in r, in their order, with
// its clean relative name ("boot/config-6.1"), size and content. fn need not read
// the content. An error of fn ends the walk and is returned.
func Walk(r io.Reader, fn func(name string, size int64, content io.Reader) error) error {
	magic := make([]byte, len(arMagic))
	if _, err := io.ReadFull(r, magic); err != nil {
		return cutOff(err, "its magic")
	}
	if !IsDeb(magic) {
		return fmt.Errorf("%w: no ar magic", ErrMalformed)
	}
	for {
		name, size, err := nextMember(r)
		if err != nil {
			return err
		}
		if strings.HasPrefix(name, "data.tar") {
			return walkTar(io.LimitReader(r, size), fn)
		}
		if _, err := io.CopyN(io.Discard, r, size+size&1); err != nil {
			return cutOff(err, name)
		}
	}
}

// nextMember reads an ar header: name (16 characters), time (12), owner (6),
// group (6), mode (8), size (10), magic (2).
func nextMember(r io.Reader) (string, int64, error) {
	var h [arHeaderSize]byte
	if _, err := io.ReadFull(r, h[:]); err != nil {
		return "", 0, cutOff(err, "the headers, before data.tar")
	}
	name := strings.TrimRight(string(h[:16]), " /")
	size, err := strconv.ParseInt(strings.TrimRight(string(h[48:58]), " "), 10, 64)
	if err != nil || size < 0 || string(h[58:]) != "`\n" {
		return "", 0, fmt.Errorf("%w: member header %q", ErrMalformed, h)
	}
	return name, size, nil
}

func walkTar(r io.Reader, fn func(string, int64, io.Reader) error) error {
	zr, _, err := decompress.NewReader(r)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	defer zr.Close()
	tr := tar.NewReader(decompress.Limit(zr, maxBytes))
	for {
		h, err := tr.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return fmt.Errorf("%w: %w", ErrMalformed, err)
		}
		if h.Typeflag != tar.TypeReg {
			continue
		}
		if len(h.Name) > maxName {
			return fmt.Errorf("%w: name of %d bytes", ErrMalformed, len(h.Name))
		}
		if err := fn(strings.TrimPrefix(path.Clean("/"+h.Name), "/"), h.Size, tr); err != nil {
			return err
		}
	}
}

// cutOff tells an end of the file in the middle of what from other errors.
func cutOff(err error, what string) error {
	if err == io.EOF || err == io.ErrUnexpectedEOF {
		return fmt.Errorf("%w: cut off in %s", ErrMalformed, what)
	}
	return err
}
