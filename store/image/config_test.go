package image

import (
	"errors"
	"slices"
	"strings"
	"testing"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// What an image says of its process is what a process can have, or is refused.
func TestConfigOfProcess(t *testing.T) {
	layer := makeTar(t, file("a", "b"))
	for name, c := range map[string]struct {
		change func(*v1.ImageConfig)
		want   Config
		err    error
	}{
		"entries without a value, a name, or with a NUL": {
			func(c *v1.ImageConfig) { c.Env = []string{"UNSET", "A=1", "=B", "", "C=\x00", "D=", "E==\n"} },
			Config{Env: []string{"A=1", "D=", "E==\n"}}, nil,
		},
		"nothing but those":          {func(c *v1.ImageConfig) { c.Env = []string{"UNSET"} }, Config{}, nil},
		"relative directory":         {func(c *v1.ImageConfig) { c.WorkingDir = "srv/app/" }, Config{WorkingDir: "/srv/app"}, nil},
		"directory outside the root": {func(c *v1.ImageConfig) { c.WorkingDir = "../../srv" }, Config{WorkingDir: "/srv"}, nil},
		"directory with a NUL":       {func(c *v1.ImageConfig) { c.WorkingDir = "/a\x00b" }, Config{}, ErrCorrupt},
		"user with a NUL":            {func(c *v1.ImageConfig) { c.User = "\x00" }, Config{}, ErrCorrupt},
		"environment of 1 MiB":       {func(c *v1.ImageConfig) { c.Env = []string{"A=" + strings.Repeat("x", 1<<20)} }, Config{}, ErrTooBig},
	} {
		t.Run(name, func(t *testing.T) {
			config := configOf([][]byte{layer})
			config.Config = v1.ImageConfig{}
			c.change(&config.Config)
			p := picture{layers: make([]layerRef, 1)}
			err := p.setConfig(toJSON(t, config), Limits{}.withDefaults())
			if !errors.Is(err, c.err) {
				t.Fatalf("got error %v, want %v", err, c.err)
			}
			if got := p.config; !slices.Equal(got.Env, c.want.Env) || got.WorkingDir != c.want.WorkingDir {
				t.Errorf("got %+v, want %+v", got, c.want)
			}
		})
	}
}
