package image

import (
	"encoding/json"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"
)

// layerRef is one layer of an image, to be read and checked.
type layerRef struct {
	name   string // in parts
	blob   digest // of the stored bytes; empty if the archive does not tell
	size   int64  // of the stored bytes; -1 if the archive does not tell
	diffID digest // of the tar
}

// picture is an image whose manifest is read.
type picture struct {
	format string
	parts  parts
	digest digest // of the configuration
	config Config
	layers []layerRef // the lowest first
}

// setConfig reads a configuration and joins its DiffIDs with the layers.
func (p *picture) setConfig(data []byte, limits Limits) error {
	var c configBlob
	if err := json.Unmarshal(data, &c); err != nil {
		return fmt.Errorf("configuration: %w: %w", ErrCorrupt, err)
	}
	if len(p.layers) == 0 || len(c.RootFS.DiffIDs) == 0 {
		return fmt.Errorf("configuration: %w", ErrNoLayers)
	}
	if len(p.layers) > limits.Layers {
		return fmt.Errorf("configuration: %w: %d layers", ErrTooBig, len(p.layers))
	}
	if len(p.layers) != len(c.RootFS.DiffIDs) {
		return fmt.Errorf("configuration: %w: %d layers, but digests of %d", ErrCorrupt, len(p.layers), len(c.RootFS.DiffIDs))
	}
	if c.OS != "" && c.OS != "linux" {
		return fmt.Errorf("configuration: %w: made for %q", ErrUnknownFormat, c.OS)
	}
	for i, d := range c.RootFS.DiffIDs {
		if err := d.check(); err != nil {
			return fmt.Errorf("configuration: %w", err)
		}
		p.layers[i].diffID = d
	}
	env, err := environment(c.Config.Env)
	if err != nil {
		return err
	}
	if strings.ContainsRune(c.Config.User+c.Config.WorkingDir, 0) {
		return fmt.Errorf("configuration: %w: user or working directory with a NUL", ErrCorrupt)
	}
	p.digest = digestOf(data)
	p.config = Config{
		Env:          env,
		Entrypoint:   c.Config.Entrypoint,
		Cmd:          c.Config.Cmd,
		User:         c.Config.User,
		WorkingDir:   workingDir(c.Config.WorkingDir),
		StopSignal:   c.Config.StopSignal,
		ExposedPorts: slices.Sorted(maps.Keys(c.Config.ExposedPorts)),
		Labels:       c.Config.Labels,
		Architecture: c.Architecture,
		OS:           c.OS,
	}
	return nil
}

// maxEnvironment bounds an image's environment, in bytes: as much as Linux takes in
// one entry, and a fraction of what it takes with all arguments of a command.
const maxEnvironment = 128 << 10

// environment returns the entries that a process can have. What has no value takes
// a variable away in docker, and is left out here too.
func environment(entries []string) ([]string, error) {
	var env []string
	size := 0
	for _, e := range entries {
		if strings.IndexByte(e, '=') <= 0 || strings.ContainsRune(e, 0) {
			continue
		}
		if size += len(e) + 1; size > maxEnvironment {
			return nil, fmt.Errorf("configuration: %w: an environment of more than %d bytes", ErrTooBig, maxEnvironment)
		}
		env = append(env, e)
	}
	return env, nil
}

// workingDir makes a directory absolute, as docker does. Empty stays empty.
func workingDir(dir string) string {
	if dir == "" {
		return ""
	}
	return path.Join("/", dir)
}
