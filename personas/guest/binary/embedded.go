//go:build embedguest

package binary

import (
	"bytes"
	_ "embed"
	"io"
)

//go:embed banger-guest
var embedded []byte

// Open returns the program and its length in bytes.
func Open() (io.ReadCloser, int64, error) {
	return io.NopCloser(bytes.NewReader(embedded)), int64(len(embedded)), nil
}
