// Package config reads what the owner has written about VMs that are yet to be
// made: config.toml, in the owner's home.
//
// It is the owner's, and bangerd's to read, so nothing in it is about root's side:
// the helper believes root's own record alone. Everything that is wrong with the
// file is told at once, each with its line. A file that is wrong anywhere counts
// nowhere: half of what somebody has written is not what they meant.
package config

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"banger/personas/api"
	"banger/personas/daemon/filesync"
)

// maxBytes bounds the file.
const maxBytes = 256 << 10

// Config is what a file says. The zero value is that of a file which is not there.
type Config struct {
	// Spec has what the file gives to a VM that asks for nothing.
	Spec api.VMSpec
	// Sync are the files that every new VM gets.
	Sync []filesync.Entry

	path  string
	lines map[string]int // of each key that the file has
}

// Path is where the configuration of the user with this home lies.
func Path(home string) string { return filepath.Join(home, ".config", "banger", "config.toml") }

// Source is the place of a key in the file, as FILE:LINE, or empty where the file
// does not have it.
func (c *Config) Source(key string) string {
	line, ok := c.lines[key]
	if !ok {
		return ""
	}
	return fmt.Sprintf("%s:%d", c.path, line)
}

// Load reads the file at path, as it is at this moment: it is small, and read for
// each VM that is made, so that no daemon has to be told of a change. A file that
// is not there says nothing; found tells. What is wrong with one that is there
// comes as Errors.
func Load(path string) (c Config, found bool, err error) {
	data, err := read(path)
	var wrong *Error
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return Config{}, false, nil
	case errors.As(err, &wrong):
		return Config{}, true, Errors{wrong}
	case err != nil:
		return Config{}, true, Errors{{Path: path, Text: "read: " + cause(err)}}
	}
	c, err = Parse(path, data)
	return c, true, err
}

// cause is an error of a file without the file's name, which is told already.
func cause(err error) string {
	var at *fs.PathError
	if errors.As(err, &at) {
		return at.Err.Error()
	}
	return err.Error()
}

// read returns the content of a file that is the daemon's user's, or root's, and
// that nobody else can write: who writes it decides what files VMs get.
func read(path string) ([]byte, error) {
	// Without O_NONBLOCK a FIFO would wait for its writer.
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return nil, err
	}
	switch {
	case st.Mode&unix.S_IFMT != unix.S_IFREG:
		return nil, &Error{Path: path, Text: "it is no regular file"}
	case st.Uid != 0 && int(st.Uid) != os.Geteuid():
		return nil, &Error{Path: path, Text: "it belongs to another user"}
	case st.Mode&0o022 != 0:
		return nil, &Error{Path: path, Text: "others can write it", Hint: "chmod go-w " + path}
	}
	data, err := io.ReadAll(io.LimitReader(f, maxBytes+1))
	if err == nil && len(data) > maxBytes {
		return nil, &Error{Path: path, Text: fmt.Sprintf("it has more than %d KiB", maxBytes>>10)}
	}
	return data, err
}

// Error is one thing that is wrong with a file.
type Error struct {
	Path string
	Line int    // from 1; 0 where it is the file as a whole
	Text string // with the key in it
	Hint string
}

// Error returns the place and what is wrong there.
func (e *Error) Error() string {
	if e.Line == 0 {
		return fmt.Sprintf("%s: %s", e.Path, e.Text)
	}
	return fmt.Sprintf("%s:%d: %s", e.Path, e.Line, e.Text)
}

// Errors is all that is wrong with a file, by line.
type Errors []*Error

// Error returns a line for each.
func (e Errors) Error() string {
	lines := make([]string, len(e))
	for i, one := range e {
		lines[i] = one.Error()
	}
	return strings.Join(lines, "\n")
}

// Hint returns what the user can do, for as much of it as there is advice.
func (e Errors) Hint() string {
	var hints []string
	for _, one := range e {
		if one.Hint != "" && !slices.Contains(hints, one.Hint) {
			hints = append(hints, one.Hint)
		}
	}
	return strings.Join(hints, "\n")
}
