package kernel

import (
	"fmt"
	"io"
	"io/fs"
	"strings"
)

// config is a kernel's configuration: options without CONFIG_, and their values.
// It is nil if it is not known.
type config map[string]string

const (
	configPrefix = "CONFIG_"
	// maxConfigBytes bounds the file.
	maxConfigBytes = 4 << 20
)

// parseConfig reads lines such as CONFIG_VIRTIO=m and leaves all others out. A
// text without a single option is an error.
func parseConfig(text string) (config, error) {
	c := config{}
	for line := range strings.Lines(text) {
		option, value, found := strings.Cut(strings.TrimSpace(line), "=")
		if found && strings.HasPrefix(option, configPrefix) {
			c[strings.TrimPrefix(option, configPrefix)] = value
		}
	}
	if len(c) == 0 {
		return nil, fmt.Errorf("%w: no option in its configuration", ErrMalformed)
	}
	return c, nil
}

// loadConfig returns the configuration: of the package, else the given one, else
// the kernel's own. It is nil if there is none.
func (c *collector) loadConfig(given io.Reader, embedded []byte) (config, error) {
	switch {
	case c.config:
	case given != nil:
		if err := c.save(configFile, given, maxConfigBytes); err != nil {
			return nil, err
		}
	case embedded != nil:
		if err := c.save(configFile, strings.NewReader(string(embedded)), maxConfigBytes); err != nil {
			return nil, err
		}
	default:
		return nil, nil
	}
	text, err := fs.ReadFile(c.root.FS(), configFile)
	if err != nil {
		return nil, err
	}
	return parseConfig(string(text))
}
