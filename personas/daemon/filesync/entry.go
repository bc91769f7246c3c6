// Package filesync reads the files of the owner's home that new VMs get: a
// .gitconfig, the settings of an editor.
//
// The host's side is locked to the home by the kernel (openat2), whatever links
// lie on the way; what is named in the configuration is all that a guest can come
// to know of it. The guest's side lies below the home of the guest's user, which
// only the guest knows.
package filesync

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"regexp"
	"strconv"
	"strings"
	"sync"
)

// MaxEntries bounds how many entries there may be.
const MaxEntries = 64

// defaultMode is that of files whose entry names none.
const defaultMode = 0o600

// Entry is a file or a tree that new VMs get.
type Entry struct {
	// Host is relative to the owner's home, Guest to that of the guest's user.
	Host  string `json:"host"`
	Guest string `json:"guest"`
	// Mode are the permission bits of each file.
	Mode fs.FileMode `json:"mode"`
}

// FieldError is what is wrong with one field of an entry.
type FieldError struct {
	Field string // host, guest or mode
	Err   error
}

// Error returns the field and the reason.
func (e *FieldError) Error() string { return e.Field + ": " + e.Err.Error() }

// Unwrap returns the reason.
func (e *FieldError) Unwrap() error { return e.Err }

// Parse reads the words of an entry. An empty guest is the same path as host, and
// an empty mode 0600. What is wrong comes as a *FieldError.
func Parse(host, guest, mode string) (Entry, error) {
	if guest == "" {
		guest = host
	}
	e := Entry{Mode: defaultMode}
	var err error
	if e.Host, err = below(host); err != nil {
		return Entry{}, &FieldError{"host", err}
	}
	if e.Guest, err = below(guest); err != nil {
		return Entry{}, &FieldError{"guest", err}
	}
	if mode == "" {
		return e, nil
	}
	if !modePattern().MatchString(mode) {
		return Entry{}, &FieldError{"mode", fmt.Errorf(`%q: want three octal digits, such as "0600"`, mode)}
	}
	bits, err := strconv.ParseUint(mode, 8, 32)
	if err != nil {
		return Entry{}, &FieldError{"mode", err}
	}
	e.Mode = fs.FileMode(bits)
	return e, nil
}

var modePattern = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^0?[0-7]{3}$`) })

// maxPath bounds a path, in bytes.
const maxPath = 1024

// below returns a path below a home, without the "~/" that it may begin with.
func below(p string) (string, error) {
	clean := path.Clean(strings.TrimPrefix(p, "~/"))
	switch {
	case p == "":
		return "", errors.New("it is missing")
	case len(p) > maxPath || strings.ContainsAny(p, "\x00\n"):
		return "", errors.New("it is no path of a file")
	case strings.HasPrefix(p, "/") || strings.HasPrefix(clean, "/"):
		return "", fmt.Errorf("%q: want a path below the home, such as ~/.gitconfig", p)
	case clean == "." || p == "~":
		return "", fmt.Errorf("%q: a whole home is never meant", p)
	case clean == ".." || strings.HasPrefix(clean, "../"):
		return "", fmt.Errorf("%q: leads out of the home", p)
	case strings.HasPrefix(p, "~") && !strings.HasPrefix(p, "~/"):
		return "", fmt.Errorf("%q: want your own home, as ~/", p)
	}
	return clean, nil
}
