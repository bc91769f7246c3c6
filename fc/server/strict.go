package server

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"
	"strings"
)

// decodeStrict reads data into v, a pointer to a struct. It refuses what encoding/json
// lets pass: keys that are unknown, repeated, missing or in other case, and null for what
// is required. Two readers of one body must never see different things in it.
func decodeStrict(data []byte, v any) error {
	d := json.NewDecoder(bytes.NewReader(data))
	if err := checkValue(d, reflect.TypeOf(v).Elem(), true); err != nil {
		return err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return errors.New("trailing characters")
	}
	return json.Unmarshal(data, v)
}

var rawMessage = reflect.TypeFor[json.RawMessage]()

// checkValue compares the next value of d with t. Its depth is bounded by that of t: what t
// does not know is refused where it begins.
func checkValue(d *json.Decoder, t reflect.Type, required bool) error {
	if t == rawMessage {
		var skipped json.RawMessage
		return d.Decode(&skipped)
	}
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	token, err := d.Token()
	if err != nil {
		return shortened(err)
	}
	if token == nil {
		if required {
			return errors.New("invalid type: null")
		}
		return nil
	}
	switch token {
	case json.Delim('{'):
		if t.Kind() != reflect.Struct {
			return errors.New("invalid type: map")
		}
		return checkStruct(d, t)
	case json.Delim('['):
		if t.Kind() != reflect.Slice {
			return errors.New("invalid type: sequence")
		}
		for d.More() {
			if err := checkValue(d, t.Elem(), true); err != nil {
				return err
			}
		}
		_, err := d.Token()
		return shortened(err)
	}
	if k := t.Kind(); k == reflect.Struct || k == reflect.Slice {
		return fmt.Errorf("invalid type: %T", token)
	}
	return nil
}

// checkStruct reads an object up to its closing brace.
func checkStruct(d *json.Decoder, t reflect.Type) error {
	seen := make([]bool, t.NumField())
	for d.More() {
		key, err := d.Token()
		if err != nil {
			return shortened(err)
		}
		i := fieldOf(t, key.(string))
		if i < 0 {
			return fmt.Errorf("unknown field `%.64s`", key)
		}
		if seen[i] {
			return fmt.Errorf("duplicate field `%s`", key)
		}
		seen[i] = true
		if err := checkValue(d, t.Field(i).Type, isRequired(t.Field(i))); err != nil {
			return err
		}
	}
	if _, err := d.Token(); err != nil {
		return shortened(err)
	}
	for i := range seen {
		if f := t.Field(i); !seen[i] && isRequired(f) {
			return fmt.Errorf("missing field `%s`", nameOf(f))
		}
	}
	return nil
}

func fieldOf(t reflect.Type, name string) int {
	for i := range t.NumField() {
		if nameOf(t.Field(i)) == name {
			return i
		}
	}
	return -1
}

func nameOf(f reflect.StructField) string {
	name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
	return name
}

func isRequired(f reflect.StructField) bool { return f.Tag.Get("fc") == "required" }

// shortened is err, with the end of the body named as what it is.
func shortened(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}
