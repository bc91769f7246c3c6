package cli

import (
	"fmt"
	"reflect"
	"slices"

	"github.com/alecthomas/kong"
)

// checkGiven refuses what is given and empty: `--name "$NAME"` of a variable that
// is not set must not mean the same as no --name at all. Only the words of a
// command for the guest may be empty.
func checkGiven(parsed *kong.Context) error {
	for _, p := range parsed.Path {
		var v *kong.Value
		switch {
		case p.Flag != nil:
			v = p.Flag.Value
		case p.Positional != nil:
			v = p.Positional
		}
		if v == nil || v.PassthroughMode != kong.PassThroughModeNone || !hasEmpty(v.Target) {
			continue
		}
		what, want := "<"+v.Name+">", v.Name
		if v.Flag != nil {
			what, want = "--"+v.Name, v.Flag.FormatPlaceHolder()
		}
		return &usageError{
			message: fmt.Sprintf("%s is empty: want %s", what, want),
			hint:    fmt.Sprintf("see %q", parsed.Selected().FullPath()+" --help"),
		}
	}
	return nil
}

// pathGiven is kong's "path" without its mapping of nothing to the working
// directory: `uninstall --root "$DIR"` of a variable that is not set would go to
// work there.
func pathGiven(c *kong.DecodeContext, target reflect.Value) error {
	var path string
	if err := c.Scan.PopValueInto("path", &path); err != nil {
		return err
	}
	if path != "" {
		path = kong.ExpandPath(path)
	}
	target.SetString(path)
	return nil
}

// hasEmpty reports whether v is an empty string, or has one in it.
func hasEmpty(v reflect.Value) bool {
	switch v := v.Interface().(type) {
	case string:
		return v == ""
	case []string:
		return slices.Contains(v, "")
	}
	return false
}
