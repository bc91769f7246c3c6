package config

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/BurntSushi/toml"
)

// Parse is Load of a file that has been read.
func Parse(path string, data []byte) (Config, error) {
	var file map[string]any
	if err := toml.Unmarshal(data, &file); err != nil {
		return Config{}, Errors{syntax(path, err)}
	}
	p := parser{path: path, lines: findLines(string(data)), config: Config{path: path, lines: make(map[string]int)}}
	for name, value := range file {
		p.top(name, value)
	}
	if len(p.wrong) > 0 {
		slices.SortFunc(p.wrong, func(a, b *Error) int {
			return cmp.Or(a.Line-b.Line, strings.Compare(a.Text, b.Text))
		})
		return Config{}, p.wrong
	}
	return p.config, nil
}

// syntax tells of a text that is no TOML.
func syntax(path string, err error) *Error {
	var parse toml.ParseError
	if !errors.As(err, &parse) {
		return &Error{Path: path, Text: err.Error()}
	}
	text := parse.Message
	if text == "" { // some errors have their words in Error alone
		_, text, _ = strings.Cut(parse.Error(), ": ")
		_, text, _ = strings.Cut(text, ": ")
	}
	return &Error{Path: path, Line: parse.Position.Line, Text: text}
}

// parser goes through one file, and past what is wrong in it.
type parser struct {
	path   string
	lines  map[string]int
	config Config
	wrong  Errors
}

// top takes one key of the file's top level.
func (p *parser) top(name string, value any) {
	line := p.lines[name]
	switch k := find(name); {
	case name == syncKey:
		p.sync(value)
	case k != nil:
		p.config.lines[name] = line
		if err := k.read(&p.config.Spec, value); err != nil {
			p.fail(line, name, err)
		}
	case name == "firecracker_bin":
		p.wrong = append(p.wrong, &Error{Path: p.path, Line: line,
			Text: "firecracker_bin: which Firecracker runs is for root to say, not for this file",
			Hint: "sudo banger system install --firecracker PATH"})
	default:
		p.unknown(line, name, name, append(names(), syncKey))
	}
}

func (p *parser) fail(line int, key string, err error) {
	// Where an error begins with the key itself, once is enough.
	text := key + ": " + strings.TrimPrefix(err.Error(), key+" ")
	p.wrong = append(p.wrong, &Error{Path: p.path, Line: line, Text: text})
}

// unknown tells of a key that is none of known, and which of them it is most like.
func (p *parser) unknown(line int, shown, name string, known []string) {
	text := fmt.Sprintf("unknown key %q", shown)
	if like := nearest(name, known); like != "" {
		text += fmt.Sprintf(": did you mean %q?", like)
	} else {
		text += ": want one of " + strings.Join(known, ", ")
	}
	p.wrong = append(p.wrong, &Error{Path: p.path, Line: line, Text: text})
}
