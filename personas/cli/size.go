package cli

import (
	"fmt"
	"math"
	"regexp"
	"sync"

	"github.com/docker/go-units"
)

// size is a number of bytes as docker writes it: "512m", "2GiB", "1.5g", all
// binary. A bare number is bytes.
type size int64

var sizePattern = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`(?i)^[0-9]{1,20}(\.[0-9]{1,9})?(b|[kmgtp](i?b)?)?$`) })

// UnmarshalText implements encoding.TextUnmarshaler.
func (s *size) UnmarshalText(text []byte) error {
	word := string(text)
	if !sizePattern().MatchString(word) {
		return fmt.Errorf("size %q: want a number with a unit, such as 512m or 2GiB", word)
	}
	n, err := units.RAMInBytes(word)
	switch {
	case err != nil:
		return fmt.Errorf("size %q: %w", word, err)
	case n < 0 || n == math.MaxInt64:
		return fmt.Errorf("size %q: too large", word)
	case n < units.MiB && n > 0 && bare(word):
		return fmt.Errorf("size %s: %d bytes; did you mean %dm?", word, n, n)
	case n < units.MiB:
		return fmt.Errorf("size %q: less than 1 MiB", word)
	}
	*s = size(n)
	return nil
}

// bare reports whether word has no unit.
func bare(word string) bool {
	last := word[len(word)-1]
	return last >= '0' && last <= '9'
}

// mebibytes returns s in MiB, rounded up.
func (s size) mebibytes() int64 { return (int64(s)-1)/units.MiB + 1 }

// humanSize returns n bytes for people.
func humanSize(n int64) string { return units.BytesSize(float64(n)) }
